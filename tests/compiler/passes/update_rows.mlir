// RUN: metagrad-opt %s --pass=update-rows | filecheck %s

// The cotangent of an array of which a loop reads one row: only that row is added to.
// CHECK-LABEL: func.func @one_row(
// CHECK:         [[S:%.+]] = stablehlo.dynamic_slice %arg0, %arg2, [[Z:%.+]], sizes = [1, 3] : (tensor<4x3xf32>, tensor<i32>, tensor<i32>) -> tensor<1x3xf32>
// CHECK-NEXT:    [[A:%.+]] = stablehlo.add [[S]], %arg1 : tensor<1x3xf32>
// CHECK-NEXT:    [[D:%.+]] = stablehlo.dynamic_update_slice %arg0, [[A]], %arg2, [[Z]]
// CHECK-NEXT:    return [[D]]
func.func @one_row(%a: tensor<4x3xf32>, %u: tensor<1x3xf32>, %i: tensor<i32>) -> tensor<4x3xf32> {
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %none = stablehlo.constant dense<0.0> : tensor<4x3xf32>
  %d = stablehlo.dynamic_update_slice %none, %u, %i, %zero : (tensor<4x3xf32>, tensor<1x3xf32>, tensor<i32>, tensor<i32>) -> tensor<4x3xf32>
  %r = stablehlo.add %d, %a : tensor<4x3xf32>
  return %r : tensor<4x3xf32>
}

// Another number than zero is added everywhere.
// CHECK-LABEL: func.func @ones(
// CHECK-NOT:     dynamic_slice
func.func @ones(%a: tensor<4x3xf32>, %u: tensor<1x3xf32>, %i: tensor<i32>) -> tensor<4x3xf32> {
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %ones = stablehlo.constant dense<1.0> : tensor<4x3xf32>
  %d = stablehlo.dynamic_update_slice %ones, %u, %i, %zero : (tensor<4x3xf32>, tensor<1x3xf32>, tensor<i32>, tensor<i32>) -> tensor<4x3xf32>
  %r = stablehlo.add %a, %d : tensor<4x3xf32>
  return %r : tensor<4x3xf32>
}
