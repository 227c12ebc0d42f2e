// RUN: metagrad-opt %s --pass=reverse-kernels | filecheck %s

// The gradient of a convolution's input: the kernel is reversed in height and width, which are not
// its first dimensions here.
// CHECK-LABEL: func.func @input_gradient(
func.func @input_gradient(%d: tensor<8x10x12x5xf32>, %k: tensor<3x3x2x5xf32>) -> tensor<8x10x11x3xf32> {
  // CHECK-NEXT: [[K:%.+]] = stablehlo.reverse %arg1, dims = [1, 2] : tensor<3x3x2x5xf32>
  // CHECK-NEXT: stablehlo.convolution(%arg0, [[K]]) dim_numbers = [b, 0, 1, f]x[o, 0, 1, i]->[b, 0, 1, f], window = {pad = {{.+}}}
  // CHECK-NOT:  reverse
  %x = stablehlo.convolution(%d, %k) dim_numbers = [b, 0, 1, f]x[o, 0, 1, i]->[b, 0, 1, f],
    window = {pad = [[1, 1], [0, 0]], reverse = [true, true]} {batch_group_count = 1 : i64, feature_group_count = 1 : i64}
    : (tensor<8x10x12x5xf32>, tensor<3x3x2x5xf32>) -> tensor<8x10x11x3xf32>
  return %x : tensor<8x10x11x3xf32>
}

// One of the two.
// CHECK-LABEL: func.func @in_width(
func.func @in_width(%d: tensor<8x10x12x5xf32>, %k: tensor<3x3x5x3xf32>) -> tensor<8x8x10x3xf32> {
  // CHECK-NEXT: [[K:%.+]] = stablehlo.reverse %arg1, dims = [1] : tensor<3x3x5x3xf32>
  // CHECK-NEXT: stablehlo.convolution(%arg0, [[K]])
  // CHECK-NOT:  reverse
  %x = stablehlo.convolution(%d, %k) dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f],
    window = {reverse = [false, true]} {batch_group_count = 1 : i64, feature_group_count = 1 : i64}
    : (tensor<8x10x12x5xf32>, tensor<3x3x5x3xf32>) -> tensor<8x8x10x3xf32>
  return %x : tensor<8x8x10x3xf32>
}

// CHECK-LABEL: func.func @forwards(
// CHECK-NOT:     stablehlo.reverse
func.func @forwards(%x: tensor<8x10x3xf32>, %k: tensor<3x3x5xf32>) -> tensor<8x8x5xf32> {
  %y = stablehlo.convolution(%x, %k) dim_numbers = [b, 0, f]x[0, i, o]->[b, 0, f], window = {reverse = [false]} {batch_group_count = 1 : i64, feature_group_count = 1 : i64}
    : (tensor<8x10x3xf32>, tensor<3x3x5xf32>) -> tensor<8x8x5xf32>
  return %y : tensor<8x8x5xf32>
}
