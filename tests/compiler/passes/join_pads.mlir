// RUN: metagrad-opt %s --pass=join-pads | filecheck %s

// Three pieces: the first two are padded together until the third comes.
// CHECK-LABEL: func.func @pieces(
// CHECK:         [[C:%.+]] = stablehlo.concatenate %arg0, %arg2, dim = 1 : (tensor<4x2xf32>, tensor<4x3xf32>) -> tensor<4x5xf32>
// CHECK-NEXT:    [[D:%.+]] = stablehlo.concatenate %arg1, [[C]], dim = 1 : (tensor<4x1xf32>, tensor<4x5xf32>) -> tensor<4x6xf32>
// CHECK-NEXT:    return [[D]]
func.func @pieces(%a: tensor<4x2xf32>, %b: tensor<4x1xf32>, %c: tensor<4x3xf32>) -> tensor<4x6xf32> {
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %0 = stablehlo.pad %a, %zero, low = [0, 1], high = [0, 3], interior = [0, 0] : (tensor<4x2xf32>, tensor<f32>) -> tensor<4x6xf32>
  %1 = stablehlo.pad %b, %zero, low = [0, 0], high = [0, 5], interior = [0, 0] : (tensor<4x1xf32>, tensor<f32>) -> tensor<4x6xf32>
  %2 = stablehlo.pad %c, %zero, low = [0, 3], high = [0, 0], interior = [0, 0] : (tensor<4x3xf32>, tensor<f32>) -> tensor<4x6xf32>
  %3 = stablehlo.add %2, %0 : tensor<4x6xf32>
  %4 = stablehlo.add %3, %1 : tensor<4x6xf32>
  return %4 : tensor<4x6xf32>
}

// Left alone: pieces that overlap, with a gap, padded with something else, with a term that is not
// padded, in two dimensions.
// CHECK-LABEL: func.func @others(
// CHECK-NOT:     concatenate
func.func @others(%a: tensor<4x2xf32>, %b: tensor<4x1xf32>, %d: tensor<4x3xf32>, %e: tensor<2x3xf32>)
    -> (tensor<4x3xf32>, tensor<4x4xf32>, tensor<4x3xf32>, tensor<4x3xf32>, tensor<4x3xf32>) {
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %one = stablehlo.constant dense<1.0> : tensor<f32>
  %a0 = stablehlo.pad %a, %zero, low = [0, 0], high = [0, 1], interior = [0, 0] : (tensor<4x2xf32>, tensor<f32>) -> tensor<4x3xf32>
  %b0 = stablehlo.pad %b, %zero, low = [0, 1], high = [0, 1], interior = [0, 0] : (tensor<4x1xf32>, tensor<f32>) -> tensor<4x3xf32>
  %0 = stablehlo.add %a0, %b0 : tensor<4x3xf32>
  %a1 = stablehlo.pad %a, %zero, low = [0, 0], high = [0, 2], interior = [0, 0] : (tensor<4x2xf32>, tensor<f32>) -> tensor<4x4xf32>
  %b1 = stablehlo.pad %b, %zero, low = [0, 3], high = [0, 0], interior = [0, 0] : (tensor<4x1xf32>, tensor<f32>) -> tensor<4x4xf32>
  %1 = stablehlo.add %a1, %b1 : tensor<4x4xf32>
  %b2 = stablehlo.pad %b, %one, low = [0, 2], high = [0, 0], interior = [0, 0] : (tensor<4x1xf32>, tensor<f32>) -> tensor<4x3xf32>
  %2 = stablehlo.add %a0, %b2 : tensor<4x3xf32>
  %3 = stablehlo.add %a0, %d : tensor<4x3xf32>
  %e4 = stablehlo.pad %e, %zero, low = [2, 0], high = [0, 0], interior = [0, 0] : (tensor<2x3xf32>, tensor<f32>) -> tensor<4x3xf32>
  %4 = stablehlo.add %a0, %e4 : tensor<4x3xf32>
  return %0, %1, %2, %3, %4 : tensor<4x3xf32>, tensor<4x4xf32>, tensor<4x3xf32>, tensor<4x3xf32>, tensor<4x3xf32>
}
