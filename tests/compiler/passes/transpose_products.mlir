// RUN: metagrad-opt %s --pass=transpose-products | filecheck %s

// The weight gradient of a Hessian-vector product.
// CHECK-LABEL: func.func @weight_gradient(
// CHECK-NEXT:    [[P:%.+]] = stablehlo.dot_general %arg0, %arg1, contracting_dims = [0] x [0], precision = [DEFAULT, HIGHEST] : (tensor<8x3xf32>, tensor<8x5xf32>) -> tensor<3x5xf32>
// CHECK-NEXT:    [[Q:%.+]] = stablehlo.dot_general %arg2, %arg3, contracting_dims = [1] x [0] : (tensor<3x8xf32>, tensor<8x5xf32>) -> tensor<3x5xf32>
// CHECK-NEXT:    [[S:%.+]] = stablehlo.add [[P]], [[Q]]
// CHECK-NEXT:    return [[S]]
func.func @weight_gradient(%x: tensor<8x3xf32>, %d: tensor<8x5xf32>, %y: tensor<3x8xf32>, %e: tensor<8x5xf32>) -> tensor<3x5xf32> attributes {metagrad.by_enzyme} {
  %p = stablehlo.dot_general %d, %x, contracting_dims = [0] x [0], precision = [HIGHEST, DEFAULT] : (tensor<8x5xf32>, tensor<8x3xf32>) -> tensor<5x3xf32>
  %q = stablehlo.dot_general %e, %y, contracting_dims = [0] x [1] : (tensor<8x5xf32>, tensor<3x8xf32>) -> tensor<5x3xf32>
  %s = stablehlo.add %p, %q : tensor<5x3xf32>
  %t = stablehlo.transpose %s, dims = [1, 0] : (tensor<5x3xf32>) -> tensor<3x5xf32>
  return %t : tensor<3x5xf32>
}

// Left alone: the sum is read as it is too; a term is no product.
// CHECK-LABEL: func.func @others(
func.func @others(%x: tensor<8x3xf32>, %d: tensor<8x3xf32>, %m: tensor<3x3xf32>, %z: tensor<2x3x3xf32>)
    -> (tensor<3x3xf32>, tensor<3x3xf32>, tensor<3x3xf32>, tensor<3x2xf32>) attributes {metagrad.by_enzyme} {
  %p = stablehlo.dot_general %d, %x, contracting_dims = [0] x [0] : (tensor<8x3xf32>, tensor<8x3xf32>) -> tensor<3x3xf32>
  // CHECK: transpose
  %0 = stablehlo.transpose %p, dims = [1, 0] : (tensor<3x3xf32>) -> tensor<3x3xf32>
  %q = stablehlo.dot_general %x, %x, contracting_dims = [0] x [0] : (tensor<8x3xf32>, tensor<8x3xf32>) -> tensor<3x3xf32>
  %s = stablehlo.add %q, %m : tensor<3x3xf32>
  // CHECK: transpose
  %1 = stablehlo.transpose %s, dims = [1, 0] : (tensor<3x3xf32>) -> tensor<3x3xf32>
  %b = stablehlo.dot_general %z, %z, batching_dims = [0] x [0], contracting_dims = [1, 2] x [1, 2] : (tensor<2x3x3xf32>, tensor<2x3x3xf32>) -> tensor<2xf32>
  %c = stablehlo.broadcast_in_dim %b, dims = [0] : (tensor<2xf32>) -> tensor<2x3xf32>
  // CHECK: transpose
  %2 = stablehlo.transpose %c, dims = [1, 0] : (tensor<2x3xf32>) -> tensor<3x2xf32>
  return %p, %0, %1, %2 : tensor<3x3xf32>, tensor<3x3xf32>, tensor<3x3xf32>, tensor<3x2xf32>
}

// What JAX made.
// CHECK-LABEL: func.func @by_jax(
func.func @by_jax(%x: tensor<8x3xf32>, %d: tensor<8x5xf32>) -> tensor<3x5xf32> {
  %p = stablehlo.dot_general %d, %x, contracting_dims = [0] x [0] : (tensor<8x5xf32>, tensor<8x3xf32>) -> tensor<5x3xf32>
  // CHECK: transpose
  %t = stablehlo.transpose %p, dims = [1, 0] : (tensor<5x3xf32>) -> tensor<3x5xf32>
  return %t : tensor<3x5xf32>
}
