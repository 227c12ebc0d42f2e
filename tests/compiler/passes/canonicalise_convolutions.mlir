// RUN: metagrad-opt %s --pass=canonicalise-convolutions | filecheck %s

// The gradient of a kernel, as differentiation gives it: batch and channels have changed their
// places.
// CHECK-LABEL: func.func @kernel_gradient(
func.func @kernel_gradient(%x: tensor<8x10x12x3xf32>, %d: tensor<8x10x12x5xf32>) -> tensor<3x3x3x5xf32> {
  // CHECK-NEXT: [[X:%.+]] = stablehlo.transpose %arg0, dims = [3, 1, 2, 0] : (tensor<8x10x12x3xf32>) -> tensor<3x10x12x8xf32>
  // CHECK-NEXT: [[D:%.+]] = stablehlo.transpose %arg1, dims = [1, 2, 0, 3] : (tensor<8x10x12x5xf32>) -> tensor<10x12x8x5xf32>
  // CHECK-NEXT: [[G:%.+]] = stablehlo.convolution([[X]], [[D]]) dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]
  // CHECK-SAME:   : (tensor<3x10x12x8xf32>, tensor<10x12x8x5xf32>) -> tensor<3x3x3x5xf32>
  // CHECK-NEXT: [[R:%.+]] = stablehlo.transpose [[G]], dims = [1, 2, 0, 3] : (tensor<3x3x3x5xf32>) -> tensor<3x3x3x5xf32>
  // CHECK-NEXT: return [[R]]
  %g = stablehlo.convolution(%x, %d) dim_numbers = [f, 0, 1, b]x[i, 0, 1, o]->[0, 1, b, f],
    window = {pad = [[1, 1], [1, 1]]} {batch_group_count = 1 : i64, feature_group_count = 1 : i64}
    : (tensor<8x10x12x3xf32>, tensor<8x10x12x5xf32>) -> tensor<3x3x3x5xf32>
  return %g : tensor<3x3x3x5xf32>
}

// CHECK-LABEL: func.func @canonical_already(
// CHECK-NOT:     stablehlo.transpose
func.func @canonical_already(%x: tensor<8x10x3xf32>, %k: tensor<3x3x5xf32>) -> tensor<8x8x5xf32> {
  %y = stablehlo.convolution(%x, %k) dim_numbers = [b, 0, f]x[0, i, o]->[b, 0, f], window = {} {batch_group_count = 1 : i64, feature_group_count = 1 : i64}
    : (tensor<8x10x3xf32>, tensor<3x3x5xf32>) -> tensor<8x8x5xf32>
  return %y : tensor<8x8x5xf32>
}
