// RUN: not metagrad-opt %s --pass=schedule --steps=3 2>&1 | filecheck %s

// All functions are there, and not which leaves of the state get a cotangent.
// CHECK: metagrad-opt: the module has no `metagrad.between_steps` attribute; it needs one like [0, 2]: the leaves of the state

module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"]} {
  func.func private @inner(%w: tensor<f32>, %z: tensor<f32>) -> tensor<f32> {
    return %w : tensor<f32>
  }
  func.func private @update(%w: tensor<f32>, %z: tensor<f32>, %g: tensor<f32>) -> tensor<f32> {
    return %g : tensor<f32>
  }
  func.func private @step_vjp(%w: tensor<f32>, %z: tensor<f32>, %g: tensor<f32>, %w_bar: tensor<f32>) -> (tensor<f32>, tensor<f32>) {
    return %w_bar, %g : tensor<f32>, tensor<f32>
  }
  func.func private @outer_vjp(%w: tensor<f32>) -> (tensor<f32>, tensor<f32>) {
    return %w, %w : tensor<f32>, tensor<f32>
  }
}
