// RUN: not metagrad-opt %s --pass=raise-gradients,cut,differentiate,schedule --steps=3 --split-input-file 2>&1 | filecheck %s

// A gradient whose loss is not named.
// CHECK: metagrad-opt: pass 'raise-gradients': the custom call @metagrad.grad has no `mhlo.backend_config`, which names its loss
func.func @step(%w: tensor<f32>) -> tensor<f32> {
  %g = stablehlo.custom_call @metagrad.grad(%w) : (tensor<f32>) -> tensor<f32>
  return %g : tensor<f32>
}

// -----

// A module that does not say which argument is what.
// CHECK: metagrad-opt: the module has no `metagrad.arguments` attribute; it needs one like {state = 2 : i64, meta = 1 : i64, batch = 1 : i64, outer = 0 : i64}
func.func @step(%w: tensor<f32>, %z: tensor<f32>) -> tensor<f32> {
  return %w : tensor<f32>
}
func.func @outer(%w: tensor<f32>) -> tensor<f32> {
  return %w : tensor<f32>
}

// -----

// JAX's derivative of @outer lacks the seed.
// CHECK: metagrad-opt: pass 'differentiate': @by_jax does not have the arguments of a VJP of @outer
module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [0]} {
  func.func public @step(%w: tensor<f32>, %z: tensor<f32>) -> tensor<f32> {
    return %z : tensor<f32>
  }
  func.func public @outer(%w: tensor<f32>) -> tensor<f32> attributes {metagrad.value_and_vjp = @by_jax} {
    return %w : tensor<f32>
  }
  func.func private @by_jax(%w: tensor<f32>) -> tensor<f32> {
    return %w : tensor<f32>
  }
}

// -----

// A complex operand between the pieces: its cotangent would be lost.
// CHECK: metagrad-opt: the gradient of loss (train.py:7) takes a tensor<complex<f32>> that what is differentiated reaches, and metagrad passes no complex cotangents
module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [0]} {
  func.func public @step(%w: tensor<f32>, %z: tensor<f32>) -> tensor<f32> {
    %c = stablehlo.complex %z, %z : tensor<complex<f32>>
    %v, %g = "metagrad.grad"(%w, %c) {loss = @loss, wrt = [0], label = "loss (train.py:7)"} : (tensor<f32>, tensor<complex<f32>>) -> (tensor<f32>, tensor<f32>)
    return %g : tensor<f32>
  }
  func.func private @loss(%w: tensor<f32>, %c: tensor<complex<f32>>) -> tensor<f32> {
    %r = stablehlo.real %c : (tensor<complex<f32>>) -> tensor<f32>
    %l = stablehlo.multiply %w, %r : tensor<f32>
    return %l : tensor<f32>
  }
  func.func public @outer(%w: tensor<f32>) -> tensor<f32> {
    return %w : tensor<f32>
  }
}

// -----

// CHECK: metagrad-opt: the gradient of loss (train.py:7) returns a tensor<complex<f32>> that what is differentiated reaches
module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [0]} {
  func.func public @step(%w: tensor<f32>, %z: tensor<f32>) -> tensor<f32> {
    %v, %c, %g = "metagrad.grad"(%w, %z) {loss = @loss, wrt = [0], label = "loss (train.py:7)"} : (tensor<f32>, tensor<f32>) -> (tensor<f32>, tensor<complex<f32>>, tensor<f32>)
    %r = stablehlo.real %c : (tensor<complex<f32>>) -> tensor<f32>
    return %r : tensor<f32>
  }
  func.func private @loss(%w: tensor<f32>, %z: tensor<f32>) -> (tensor<f32>, tensor<complex<f32>>) {
    %l = stablehlo.multiply %w, %z : tensor<f32>
    %c = stablehlo.complex %l, %z : tensor<complex<f32>>
    return %l, %c : tensor<f32>, tensor<complex<f32>>
  }
  func.func public @outer(%w: tensor<f32>) -> tensor<f32> {
    return %w : tensor<f32>
  }
}
