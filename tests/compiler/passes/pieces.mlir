// RUN: metagrad-opt %s --pass=pieces | filecheck %s
// RUN: metagrad-opt %s --pass=pieces,pieces | filecheck %s

// What only differentiation needed goes: @step, @loss_0, and the @update that was differentiated.
// The copy that is run takes its name. What a piece calls stays.

// CHECK-NOT:     @step(
// CHECK-NOT:     @loss_0
// CHECK-LABEL: func.func private @update(
// CHECK-NEXT:    stablehlo.negate %arg2
// CHECK-LABEL: func.func private @inner(
// CHECK-NEXT:    call @kept
// CHECK-LABEL: func.func private @kept(
// CHECK-LABEL: func.func private @step_vjp(
// CHECK-LABEL: func.func private @outer_vjp(
// CHECK-LABEL: func.func private @prints(
// CHECK-NOT:     func.func

module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [0]} {
  func.func public @step(%w: tensor<f32>, %z: tensor<f32>) -> tensor<f32> {
    %g = func.call @inner(%w, %z) : (tensor<f32>, tensor<f32>) -> tensor<f32>
    %n = func.call @update(%w, %z, %g) : (tensor<f32>, tensor<f32>, tensor<f32>) -> tensor<f32>
    return %n : tensor<f32>
  }
  func.func private @update(%w: tensor<f32>, %z: tensor<f32>, %g: tensor<f32>) -> tensor<f32> attributes {metagrad.run = @update_run} {
    return %g : tensor<f32>
  }
  func.func private @update_run(%w: tensor<f32>, %z: tensor<f32>, %g: tensor<f32>) -> tensor<f32> {
    %n = stablehlo.negate %g : tensor<f32>
    return %n : tensor<f32>
  }
  func.func private @loss_0(%w: tensor<f32>, %z: tensor<f32>) -> tensor<f32> {
    return %w : tensor<f32>
  }
  func.func private @inner(%w: tensor<f32>, %z: tensor<f32>) -> tensor<f32> {
    %g = func.call @kept(%w) : (tensor<f32>) -> tensor<f32>
    return %g : tensor<f32>
  }
  func.func private @kept(%w: tensor<f32>) -> tensor<f32> {
    return %w : tensor<f32>
  }
  func.func private @step_vjp(%w: tensor<f32>, %z: tensor<f32>, %g: tensor<f32>, %w_bar: tensor<f32>) -> (tensor<f32>, tensor<f32>) {
    return %w_bar, %g : tensor<f32>, tensor<f32>
  }
  func.func public @outer(%w: tensor<f32>) -> tensor<f32> {
    return %w : tensor<f32>
  }
  func.func private @outer_vjp(%w: tensor<f32>) -> (tensor<f32>, tensor<f32>) {
    return %w, %w : tensor<f32>, tensor<f32>
  }
  func.func private @prints(%w: tensor<f32>, %z: tensor<f32>) {
    return
  }
}
