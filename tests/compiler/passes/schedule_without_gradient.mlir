// RUN: metagrad-opt %s --pass=cut,differentiate,schedule --steps=3 --schedule='StoreAll()' | filecheck %s

// A step that never calls metagrad.grad: nothing to keep, nothing to fetch. One run for each saved
// state, and none in the other segments.

module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 1 : i64, outer = 0 : i64}, metagrad.wrt = ["state", "meta"], metagrad.between_steps = [0]} {
  func.func public @step(%w: tensor<2xf32>, %z: tensor<2xf32>, %b: tensor<2xf32>) -> tensor<2xf32> {
    %move = stablehlo.multiply %z, %b : tensor<2xf32>
    %n = stablehlo.multiply %w, %move : tensor<2xf32>
    return %n : tensor<2xf32>
  }
  func.func public @outer(%w: tensor<2xf32>) -> tensor<f32> {
    %l = stablehlo.dot_general %w, %w, contracting_dims = [0] x [0] : (tensor<2xf32>, tensor<2xf32>) -> tensor<f32>
    return %l : tensor<f32>
  }
}

// The gradient in the order state, meta; then the final state.
// CHECK-LABEL: func.func public @main(
// CHECK-SAME:    -> (tensor<f32>, tensor<2xf32>, tensor<2xf32>, tensor<2xf32>) {
// CHECK-NEXT:    stablehlo.constant dense<[0, 2]> : tensor<2xi32>
// CHECK-NEXT:    stablehlo.constant dense<[0, 2]> : tensor<2xi32>
// CHECK-NEXT:    stablehlo.constant dense<[0, 1, 1]> : tensor<3xi32>
// CHECK-NEXT:    stablehlo.constant dense<[0, 1, 4]> : tensor<3xi32>
// CHECK-NOT:     call @inner(
// CHECK:         call @update(
// CHECK:         call @outer_vjp(
// CHECK:         call @step_vjp(
// CHECK-NOT:     call @
// CHECK:         return
