// RUN: metagrad-opt %s --pass=cut,differentiate --split-input-file | filecheck %s

// Where JAX differentiates in Enzyme's place its functions are called. Here it made all of them:
// the gradient, its VJP, and those of the update and of the outer function. A VJP that JAX made
// takes a cotangent for each float result and gives one for each float argument.

module attributes {metagrad.arguments = {state = 2 : i64, meta = 1 : i64, batch = 1 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [0]} {
  func.func public @step(%w: tensor<f32>, %count: tensor<i32>, %z: tensor<f32>, %b: tensor<f32>) -> (tensor<f32>, tensor<i32>) attributes {metagrad.update_vjp = @update_by_jax} {
    %v, %g = "metagrad.grad"(%w, %z, %count) {loss = @loss, wrt = [0], grad = @grad_by_jax, grad_vjp = @grad_vjp_by_jax} : (tensor<f32>, tensor<f32>, tensor<i32>) -> (tensor<f32>, tensor<f32>)
    %n = stablehlo.subtract %w, %g : tensor<f32>
    return %n, %count : tensor<f32>, tensor<i32>
  }
  func.func private @loss(%w: tensor<f32>, %z: tensor<f32>, %count: tensor<i32>) -> tensor<f32> {
    %l = stablehlo.multiply %w, %z : tensor<f32>
    return %l : tensor<f32>
  }
  func.func private @grad_by_jax(%w: tensor<f32>, %z: tensor<f32>, %count: tensor<i32>) -> (tensor<f32>, tensor<f32>) {
    return %w, %z : tensor<f32>, tensor<f32>
  }
  func.func private @grad_vjp_by_jax(%w: tensor<f32>, %z: tensor<f32>, %count: tensor<i32>, %v_bar: tensor<f32>, %g_bar: tensor<f32>) -> (tensor<f32>, tensor<f32>) {
    return %v_bar, %g_bar : tensor<f32>, tensor<f32>
  }
  func.func private @update_by_jax(%w: tensor<f32>, %count: tensor<i32>, %z: tensor<f32>, %b: tensor<f32>, %g: tensor<f32>, %seed: tensor<f32>) -> (tensor<f32>, tensor<f32>, tensor<f32>, tensor<f32>) {
    return %seed, %z, %b, %g : tensor<f32>, tensor<f32>, tensor<f32>, tensor<f32>
  }
  func.func public @outer(%w: tensor<f32>, %count: tensor<i32>) -> tensor<f32> attributes {metagrad.value_and_vjp = @outer_by_jax} {
    return %w : tensor<f32>
  }
  func.func private @outer_by_jax(%w: tensor<f32>, %count: tensor<i32>, %seed: tensor<f32>) -> (tensor<f32>, tensor<f32>) {
    return %w, %seed : tensor<f32>, tensor<f32>
  }
}

// CHECK:       func.func private @inner(
// CHECK:         [[G:%.+]]:2 = {{.*}}call @grad_by_jax(
// CHECK-NEXT:    return [[G]]#1
// CHECK:       func.func private @outer_vjp(
// CHECK:         [[R:%.+]]:2 = call @outer_by_jax(%arg0, %arg1, {{%.+}})
// CHECK-NEXT:    return [[R]]#0, [[R]]#1

// Results of JAX's function in the order of the float arguments: state, metaparameter, batch,
// gradient. The loss's value is not read: its cotangent is zero.
// CHECK:       func.func private @step_vjp(
// CHECK-NEXT:    [[U:%.+]]:4 = call @update_by_jax(%arg0, %arg1, %arg2, %arg3, %arg4, %arg5)
// CHECK-NEXT:    [[READ:%.+]]:3 = call @inputs_0(%arg0, %arg1, %arg2, %arg3)
// CHECK-NEXT:    [[ZERO:%.+]] = stablehlo.constant dense<0.000000e+00> : tensor<f32>
// CHECK-NEXT:    [[X:%.+]]:2 = call @grad_vjp_by_jax([[READ]]#0, [[READ]]#1, [[READ]]#2, [[ZERO]], [[U]]#3)
// A function that JAX differentiates is taken whole: a cotangent comes from the update for the
// metaparameter too, which it does not read.
// CHECK-NEXT:    [[W_BAR:%.+]] = stablehlo.add [[U]]#0, [[X]]#0
// CHECK-NEXT:    [[Z_BAR:%.+]] = stablehlo.add [[U]]#1, [[X]]#1
// CHECK-NEXT:    return [[W_BAR]], [[Z_BAR]]
// CHECK-NOT:     enzyme.
// CHECK:         // -----

// -----

// JAX made the loss's VJP only (jax-reverse): Enzyme goes forward over it.

module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [0]} {
  func.func public @step(%w: tensor<f32>, %z: tensor<f32>) -> tensor<f32> {
    %v, %g = "metagrad.grad"(%w, %z) {loss = @loss, wrt = [0], vjp = @loss_vjp_by_jax, grad = @grad_by_jax} : (tensor<f32>, tensor<f32>) -> (tensor<f32>, tensor<f32>)
    %n = stablehlo.subtract %w, %g : tensor<f32>
    return %n : tensor<f32>
  }
  func.func private @loss(%w: tensor<f32>, %z: tensor<f32>) -> tensor<f32> {
    %l = stablehlo.multiply %w, %z : tensor<f32>
    return %l : tensor<f32>
  }
  func.func private @loss_vjp_by_jax(%w: tensor<f32>, %z: tensor<f32>, %seed: tensor<f32>) -> (tensor<f32>, tensor<f32>) {
    return %z, %w : tensor<f32>, tensor<f32>
  }
  func.func private @grad_by_jax(%w: tensor<f32>, %z: tensor<f32>) -> (tensor<f32>, tensor<f32>) {
    return %w, %z : tensor<f32>, tensor<f32>
  }
  func.func public @outer(%w: tensor<f32>) -> tensor<f32> {
    return %w : tensor<f32>
  }
}

// CHECK:       func.func private @step_vjp(
// CHECK:         "enzyme.fwddiff"({{.*}}fn = @loss_vjp_0
// CHECK:       func.func private @loss_vjp_0(
// CHECK-NEXT:    [[X:%.+]]:2 = call @loss_vjp_by_jax(%arg0, %arg1, %arg2)
// CHECK-NEXT:    return [[X]]#0, [[X]]#1

// -----

// An auxiliary result of the outer function comes from @outer itself.
module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [0]} {
  func.func public @step(%w: tensor<f32>, %z: tensor<f32>) -> tensor<f32> {
    %n = stablehlo.multiply %w, %z : tensor<f32>
    return %n : tensor<f32>
  }
  func.func public @outer(%w: tensor<f32>) -> (tensor<f32>, tensor<i32>) attributes {metagrad.value_and_vjp = @outer_by_jax} {
    %steps = stablehlo.constant dense<7> : tensor<i32>
    return %w, %steps : tensor<f32>, tensor<i32>
  }
  func.func private @outer_by_jax(%w: tensor<f32>, %seed: tensor<f32>) -> (tensor<f32>, tensor<f32>) {
    return %w, %seed : tensor<f32>, tensor<f32>
  }
}

// CHECK:       func.func private @outer_vjp(
// CHECK:         [[R:%.+]]:2 = call @outer_by_jax(%arg0, {{%.+}})
// CHECK-NEXT:    [[A:%.+]]:2 = call @outer(%arg0)
// CHECK-NEXT:    return [[R]]#0, [[A]]#1, [[R]]#1
