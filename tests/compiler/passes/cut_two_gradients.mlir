// RUN: metagrad-opt %s --pass=cut | filecheck %s

// Sharpness-aware minimisation: the second gradient is taken where the first one points to.

module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 1 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [0]} {
  func.func public @step(%w: tensor<3xf32>, %z: tensor<f32>, %b: tensor<3xf32>) -> tensor<3xf32> {
    %v0, %g0 = "metagrad.grad"(%w, %b) {loss = @loss, wrt = [0]} : (tensor<3xf32>, tensor<3xf32>) -> (tensor<f32>, tensor<3xf32>)
    %scale = stablehlo.broadcast_in_dim %z, dims = [] : (tensor<f32>) -> tensor<3xf32>
    %away = stablehlo.multiply %scale, %g0 : tensor<3xf32>
    %there = stablehlo.add %w, %away : tensor<3xf32>
    %v1, %g1 = "metagrad.grad"(%there, %b) {loss = @loss, wrt = [0]} : (tensor<3xf32>, tensor<3xf32>) -> (tensor<f32>, tensor<3xf32>)
    %by_value = stablehlo.broadcast_in_dim %v1, dims = [] : (tensor<f32>) -> tensor<3xf32>
    %move = stablehlo.multiply %by_value, %g1 : tensor<3xf32>
    %n = stablehlo.subtract %w, %move : tensor<3xf32>
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

// The inputs of the second gradient take the first as an argument, behind the step's own.
// CHECK-LABEL: func.func private @inputs_1(
// CHECK-SAME:    %arg3: tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>) {
// CHECK-NEXT:    [[SCALE:%.+]] = stablehlo.broadcast_in_dim %arg1
// CHECK-NEXT:    [[AWAY:%.+]] = stablehlo.multiply [[SCALE]], %arg3
// CHECK-NEXT:    [[THERE:%.+]] = stablehlo.add %arg0, [[AWAY]]
// CHECK-NEXT:    return [[THERE]], %arg2

// CHECK-LABEL: func.func private @inputs_0(
// CHECK-NEXT:    return %arg0, %arg2

// The update reads the second gradient and its loss's value; the first comes in all the same, so
// that every piece has the same arguments.
// CHECK-LABEL: func.func private @update(
// CHECK-SAME:    %arg3: tensor<3xf32>, %arg4: tensor<f32>, %arg5: tensor<3xf32>) -> tensor<3xf32> {
// CHECK-NEXT:    [[VALUE:%.+]] = stablehlo.broadcast_in_dim %arg4
// CHECK-NEXT:    [[MOVE:%.+]] = stablehlo.multiply [[VALUE]], %arg5
// CHECK-NEXT:    [[N:%.+]] = stablehlo.subtract %arg0, [[MOVE]]
// CHECK-NEXT:    return [[N]]

// @inner hands the first gradient on to the inputs of the second.
// CHECK-LABEL: func.func private @inner(
// CHECK-SAME:    -> (tensor<3xf32>, tensor<f32>, tensor<3xf32>) {
// CHECK-NEXT:    [[READ0:%.+]]:2 = call @inputs_0(%arg0, %arg1, %arg2)
// CHECK-NEXT:    [[G0:%.+]]:2 = "metagrad.grad"([[READ0]]#0, [[READ0]]#1)
// CHECK-NEXT:    [[READ1:%.+]]:2 = call @inputs_1(%arg0, %arg1, %arg2, [[G0]]#1)
// CHECK-NEXT:    [[G1:%.+]]:2 = "metagrad.grad"([[READ1]]#0, [[READ1]]#1)
// CHECK-NEXT:    return [[G0]]#1, [[G1]]#0, [[G1]]#1

// CHECK-LABEL: func.func public @step(
// CHECK-NEXT:    [[G:%.+]]:3 = call @inner(%arg0, %arg1, %arg2)
// CHECK-NEXT:    [[N:%.+]] = call @update(%arg0, %arg1, %arg2, [[G]]#0, [[G]]#1, [[G]]#2)
// CHECK-NEXT:    return [[N]]
