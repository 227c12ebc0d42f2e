// RUN: metagrad-opt %s --pass=flatten-contractions | filecheck %s

// The gradient of a weight: batch and sequence are summed over. Reshaped, it is one product of
// matrices.
// CHECK-LABEL: func.func @weight_gradient(
func.func @weight_gradient(%x: tensor<4x6x5xf32>, %d: tensor<4x6x3xf32>) -> tensor<5x3xf32> {
  // CHECK-DAG:  [[X:%.+]] = stablehlo.reshape %arg0 : (tensor<4x6x5xf32>) -> tensor<24x5xf32>
  // CHECK-DAG:  [[D:%.+]] = stablehlo.reshape %arg1 : (tensor<4x6x3xf32>) -> tensor<24x3xf32>
  // CHECK:      [[G:%.+]] = stablehlo.dot_general [[X]], [[D]], contracting_dims = [0] x [0], precision = [HIGHEST, DEFAULT] : (tensor<24x5xf32>, tensor<24x3xf32>) -> tensor<5x3xf32>
  // CHECK-NEXT: return [[G]]
  %g = stablehlo.dot_general %x, %d, contracting_dims = [0, 1] x [0, 1], precision = [HIGHEST, DEFAULT] : (tensor<4x6x5xf32>, tensor<4x6x3xf32>) -> tensor<5x3xf32>
  return %g : tensor<5x3xf32>
}

// Trailing dimensions on one side, leading ones on the other; several free dimensions on both.
// CHECK-LABEL: func.func @trailing(
func.func @trailing(%x: tensor<2x7x4x6xf32>, %d: tensor<4x6x3x8xf32>) -> tensor<2x7x3x8xf32> {
  // CHECK-DAG:  [[X:%.+]] = stablehlo.reshape %arg0 : (tensor<2x7x4x6xf32>) -> tensor<14x24xf32>
  // CHECK-DAG:  [[D:%.+]] = stablehlo.reshape %arg1 : (tensor<4x6x3x8xf32>) -> tensor<24x24xf32>
  // CHECK:      [[G:%.+]] = stablehlo.dot_general [[X]], [[D]], contracting_dims = [1] x [0] : (tensor<14x24xf32>, tensor<24x24xf32>) -> tensor<14x24xf32>
  // CHECK-NEXT: stablehlo.reshape [[G]] : (tensor<14x24xf32>) -> tensor<2x7x3x8xf32>
  %g = stablehlo.dot_general %x, %d, contracting_dims = [2, 3] x [0, 1] : (tensor<2x7x4x6xf32>, tensor<4x6x3x8xf32>) -> tensor<2x7x3x8xf32>
  return %g : tensor<2x7x3x8xf32>
}

// All dimensions: the inner product of two arrays.
// CHECK-LABEL: func.func @inner_product(
func.func @inner_product(%x: tensor<4x6xf32>, %d: tensor<4x6xf32>) -> tensor<f32> {
  // CHECK:      [[G:%.+]] = stablehlo.dot_general {{%.+}}, {{%.+}}, contracting_dims = [0] x [0] : (tensor<24x1xf32>, tensor<24x1xf32>) -> tensor<1x1xf32>
  // CHECK-NEXT: stablehlo.reshape [[G]] : (tensor<1x1xf32>) -> tensor<f32>
  %g = stablehlo.dot_general %x, %d, contracting_dims = [0, 1] x [0, 1] : (tensor<4x6xf32>, tensor<4x6xf32>) -> tensor<f32>
  return %g : tensor<f32>
}

// In a loop as well.
// CHECK-LABEL: func.func @in_a_loop(
func.func @in_a_loop(%x: tensor<4x6x5xf32>, %g: tensor<5x5xf32>) -> tensor<5x5xf32> {
  %zero = stablehlo.constant dense<0> : tensor<i64>
  %turns = stablehlo.constant dense<4> : tensor<i64>
  %one = stablehlo.constant dense<1> : tensor<i64>
  %r:2 = stablehlo.while(%i = %zero, %h = %g) : tensor<i64>, tensor<5x5xf32>
  cond {
    %c = stablehlo.compare LT, %i, %turns, SIGNED : (tensor<i64>, tensor<i64>) -> tensor<i1>
    stablehlo.return %c : tensor<i1>
  } do {
    // CHECK: stablehlo.dot_general {{%.+}}, {{%.+}}, contracting_dims = [0] x [0] : (tensor<24x5xf32>, tensor<24x5xf32>) -> tensor<5x5xf32>
    %p = stablehlo.dot_general %x, %x, contracting_dims = [0, 1] x [0, 1] : (tensor<4x6x5xf32>, tensor<4x6x5xf32>) -> tensor<5x5xf32>
    %n = stablehlo.add %h, %p : tensor<5x5xf32>
    %j = stablehlo.add %i, %one : tensor<i64>
    stablehlo.return %j, %n : tensor<i64>, tensor<5x5xf32>
  }
  return %r#1 : tensor<5x5xf32>
}

// Left as they are: one contracted dimension, a batched product, contracted dimensions in another
// order on the other side, and dimensions that are no block at either end.
// CHECK-LABEL: func.func @untouched(
// CHECK-NOT:     stablehlo.reshape
func.func @untouched(%a: tensor<4x6xf32>, %b: tensor<2x4x6xf32>, %c: tensor<6x4x3xf32>, %d: tensor<4x3x6xf32>)
    -> (tensor<4x4xf32>, tensor<2xf32>, tensor<2x3xf32>, tensor<2x3xf32>) {
  // CHECK: contracting_dims = [1] x [1]
  %0 = stablehlo.dot_general %a, %a, contracting_dims = [1] x [1] : (tensor<4x6xf32>, tensor<4x6xf32>) -> tensor<4x4xf32>
  // CHECK: batching_dims = [0] x [0], contracting_dims = [1, 2] x [1, 2]
  %1 = stablehlo.dot_general %b, %b, batching_dims = [0] x [0], contracting_dims = [1, 2] x [1, 2] : (tensor<2x4x6xf32>, tensor<2x4x6xf32>) -> tensor<2xf32>
  // CHECK: contracting_dims = [1, 2] x [1, 0]
  %2 = stablehlo.dot_general %b, %c, contracting_dims = [1, 2] x [1, 0] : (tensor<2x4x6xf32>, tensor<6x4x3xf32>) -> tensor<2x3xf32>
  // CHECK: contracting_dims = [1, 2] x [0, 2]
  %3 = stablehlo.dot_general %b, %d, contracting_dims = [1, 2] x [0, 2] : (tensor<2x4x6xf32>, tensor<4x3x6xf32>) -> tensor<2x3xf32>
  return %0, %1, %2, %3 : tensor<4x4xf32>, tensor<2xf32>, tensor<2x3xf32>, tensor<2x3xf32>
}
