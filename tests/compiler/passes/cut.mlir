// RUN: metagrad-opt %s --pass=cut | filecheck %s
// RUN: metagrad-opt %s --pass=cut,cut | filecheck %s

// A module that is cut stays as it is.

// One gradient, of a loss that reads a scaled batch.

module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 1 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [0]} {
  func.func public @step(%w: tensor<3xf32>, %z: tensor<3xf32>, %b: tensor<3xf32>) -> tensor<3xf32> {
    %x = stablehlo.multiply %z, %b : tensor<3xf32>
    %v, %g = "metagrad.grad"(%w, %x) {loss = @loss, wrt = [0], label = "loss (train.py:7)"} : (tensor<3xf32>, tensor<3xf32>) -> (tensor<f32>, tensor<3xf32>)
    %n = stablehlo.subtract %w, %g : tensor<3xf32>
    return %n : tensor<3xf32>
  }
  func.func private @loss(%w: tensor<3xf32>, %x: tensor<3xf32>) -> tensor<f32> {
    %l = stablehlo.dot_general %w, %x, contracting_dims = [0] x [0] : (tensor<3xf32>, tensor<3xf32>) -> tensor<f32>
    return %l : tensor<f32>
  }
  func.func public @outer(%w: tensor<3xf32>) -> tensor<f32> {
    %l = stablehlo.dot_general %w, %w, contracting_dims = [0] x [0] : (tensor<3xf32>, tensor<3xf32>) -> tensor<f32>
    return %l : tensor<f32>
  }
}

// @inputs_0 computes what the gradient is called on, and nothing else.
// CHECK-LABEL: func.func private @inputs_0(
// CHECK-SAME:    %arg0: tensor<3xf32>, %arg1: tensor<3xf32>, %arg2: tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>) {
// CHECK-NEXT:    [[X:%.+]] = stablehlo.multiply %arg1, %arg2
// CHECK-NEXT:    return %arg0, [[X]]

// @update is the rest of the step; the gradient comes in behind the step's own arguments. The
// loss's value, which nothing reads, does not.
// CHECK-LABEL: func.func private @update(
// CHECK-SAME:    %arg0: tensor<3xf32>, %arg1: tensor<3xf32>, %arg2: tensor<3xf32>, %arg3: tensor<3xf32>) -> tensor<3xf32> {
// CHECK-NEXT:    [[N:%.+]] = stablehlo.subtract %arg0, %arg3
// CHECK-NEXT:    return [[N]]

// @inner is the gradient alone, with the user's name of it.
// CHECK-LABEL: func.func private @inner(
// CHECK-SAME:    %arg0: tensor<3xf32>, %arg1: tensor<3xf32>, %arg2: tensor<3xf32>) -> tensor<3xf32> {
// CHECK-NEXT:    [[READ:%.+]]:2 = call @inputs_0(%arg0, %arg1, %arg2)
// CHECK-NEXT:    [[G:%.+]]:2 = "metagrad.grad"([[READ]]#0, [[READ]]#1) {label = "loss (train.py:7)", loss = @loss, wrt = [0]}
// CHECK-NEXT:    return [[G]]#1

// @step is put together from the pieces.
// CHECK-LABEL: func.func public @step(
// CHECK-NEXT:    [[G:%.+]] = call @inner(%arg0, %arg1, %arg2)
// CHECK-NEXT:    [[N:%.+]] = call @update(%arg0, %arg1, %arg2, [[G]])
// CHECK-NEXT:    return [[N]]
