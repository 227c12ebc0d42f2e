// RUN: metagrad-opt %s --pass=cut | filecheck %s

// What JAX made for a piece stands on @step until there is the piece: a derivative of it (vjp), or
// the function as it is run (run).

module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 1 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [0]} {
  func.func public @step(%w: tensor<f32>, %z: tensor<f32>, %b: tensor<f32>) -> tensor<f32>
      attributes {metagrad.update_vjp = @update_by_jax, metagrad.update_run = @as_run, metagrad.inputs_0_vjp = @inputs_by_jax} {
    %x = stablehlo.multiply %z, %b : tensor<f32>
    %v, %g = "metagrad.grad"(%w, %x) {loss = @loss, wrt = [0]} : (tensor<f32>, tensor<f32>) -> (tensor<f32>, tensor<f32>)
    %n = stablehlo.subtract %w, %g : tensor<f32>
    return %n : tensor<f32>
  }
  func.func private @loss(%w: tensor<f32>, %x: tensor<f32>) -> tensor<f32> {
    %l = stablehlo.multiply %w, %x : tensor<f32>
    return %l : tensor<f32>
  }
  func.func private @as_run(%w: tensor<f32>, %z: tensor<f32>, %b: tensor<f32>, %g: tensor<f32>) -> tensor<f32> {
    %n = stablehlo.subtract %w, %g : tensor<f32>
    return %n : tensor<f32>
  }
  func.func private @update_by_jax(%w: tensor<f32>, %z: tensor<f32>, %b: tensor<f32>, %g: tensor<f32>, %seed: tensor<f32>) -> (tensor<f32>, tensor<f32>, tensor<f32>, tensor<f32>) {
    return %seed, %seed, %seed, %seed : tensor<f32>, tensor<f32>, tensor<f32>, tensor<f32>
  }
  func.func private @inputs_by_jax(%w: tensor<f32>, %z: tensor<f32>, %b: tensor<f32>, %v: tensor<f32>, %u: tensor<f32>) -> (tensor<f32>, tensor<f32>, tensor<f32>) {
    return %v, %u, %u : tensor<f32>, tensor<f32>, tensor<f32>
  }
}

// CHECK:     func.func private @inputs_0({{.*}}) -> (tensor<f32>, tensor<f32>) attributes {metagrad.vjp = @inputs_by_jax} {
// CHECK:     func.func private @update({{.*}}) -> tensor<f32> attributes {metagrad.run = @as_run, metagrad.vjp = @update_by_jax} {
// CHECK:     func.func public @step(
// CHECK-NOT: metagrad.
