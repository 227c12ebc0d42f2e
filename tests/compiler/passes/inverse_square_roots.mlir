// RUN: metagrad-opt %s --pass=inverse-square-roots | filecheck %s

// The tangent of an inverse square root, as Enzyme writes it.
// CHECK-LABEL: func.func @tangent(
// CHECK-DAG:     [[H:%.+]] = stablehlo.constant dense<-5.000000e-01> : tensor<4xf32>
// CHECK-DAG:     [[R:%.+]] = stablehlo.rsqrt %arg0 : tensor<4xf32>
// CHECK-NEXT:    [[Q:%.+]] = stablehlo.divide [[R]], %arg0 : tensor<4xf32>
// CHECK-NEXT:    [[D:%.+]] = stablehlo.multiply [[H]], [[Q]] : tensor<4xf32>
// CHECK-NEXT:    [[T:%.+]] = stablehlo.multiply %arg1, [[D]] : tensor<4xf32>
// CHECK-NEXT:    return [[T]]
func.func @tangent(%x: tensor<4xf32>, %t: tensor<4xf32>) -> tensor<4xf32> {
  %c = stablehlo.constant dense<-2.0> : tensor<4xf32>
  %s = stablehlo.sqrt %x : tensor<4xf32>
  %p = stablehlo.multiply %x, %s : tensor<4xf32>
  %k = stablehlo.multiply %c, %p : tensor<4xf32>
  %q = stablehlo.divide %t, %k : tensor<4xf32>
  return %q : tensor<4xf32>
}

// Another number, the root of something else, no product.
// CHECK-LABEL: func.func @others(
// CHECK-NOT:     rsqrt
func.func @others(%x: tensor<f32>, %t: tensor<f32>) -> (tensor<f32>, tensor<f32>, tensor<f32>) {
  %two = stablehlo.constant dense<2.0> : tensor<f32>
  %minus = stablehlo.constant dense<-2.0> : tensor<f32>
  %s = stablehlo.sqrt %x : tensor<f32>
  %p = stablehlo.multiply %x, %s : tensor<f32>
  %k = stablehlo.multiply %two, %p : tensor<f32>
  %0 = stablehlo.divide %t, %k : tensor<f32>
  %o = stablehlo.multiply %t, %s : tensor<f32>
  %l = stablehlo.multiply %minus, %o : tensor<f32>
  %1 = stablehlo.divide %t, %l : tensor<f32>
  %m = stablehlo.multiply %minus, %s : tensor<f32>
  %2 = stablehlo.divide %t, %m : tensor<f32>
  return %0, %1, %2 : tensor<f32>, tensor<f32>, tensor<f32>
}
