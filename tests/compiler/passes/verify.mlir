// RUN: metagrad-opt %s --pass=verify | filecheck %s

// A module that is all right comes out as it went in.

// CHECK: module attributes {metagrad.arguments = {batch = 0 : i64, meta = 1 : i64, outer = 0 : i64, state = 1 : i64}, metagrad.between_steps = [0], metagrad.wrt = ["meta", "state"]} {
module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta", "state"], metagrad.between_steps = [0]} {
  func.func public @step(%w: tensor<f32>, %z: tensor<f32>) -> tensor<f32> {
    // CHECK: "metagrad.grad"(%arg0, %arg1) {loss = @loss, wrt = [0]}
    %v, %g = "metagrad.grad"(%w, %z) {loss = @loss, wrt = [0]} : (tensor<f32>, tensor<f32>) -> (tensor<f32>, tensor<f32>)
    return %g : tensor<f32>
  }
  func.func private @loss(%w: tensor<f32>, %z: tensor<f32>) -> tensor<f32> {
    // CHECK: "enzyme.ignore_derivatives"(%arg1)
    %s = "enzyme.ignore_derivatives"(%z) : (tensor<f32>) -> tensor<f32>
    %l = stablehlo.multiply %w, %s : tensor<f32>
    return %l : tensor<f32>
  }
  func.func public @outer(%w: tensor<f32>) -> tensor<f32> {
    return %w : tensor<f32>
  }
}
