// RUN: not metagrad-opt %s --pass=pieces 2>&1 | filecheck %s

// The update has a copy that is run, and the other is still to be differentiated.
// CHECK: metagrad-opt: pass 'pieces': @update is still differentiated; pass 'expand' comes before this one

module attributes {metagrad.arguments = {state = 1 : i64, meta = 0 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["state"], metagrad.between_steps = [0]} {
  func.func private @inner(%w: tensor<f32>) {
    return
  }
  func.func private @update(%w: tensor<f32>) -> tensor<f32> attributes {metagrad.run = @update_run} {
    return %w : tensor<f32>
  }
  func.func private @update_run(%w: tensor<f32>) -> tensor<f32> {
    return %w : tensor<f32>
  }
  func.func private @step_vjp(%w: tensor<f32>, %w_bar: tensor<f32>) -> tensor<f32> {
    %g = "enzyme.autodiff"(%w, %w_bar) {fn = @update, activity = [#enzyme.activity<enzyme_active>], ret_activity = [#enzyme.activity<enzyme_activenoneed>]}
      : (tensor<f32>, tensor<f32>) -> tensor<f32>
    return %g : tensor<f32>
  }
  func.func private @outer_vjp(%w: tensor<f32>) -> (tensor<f32>, tensor<f32>) {
    return %w, %w : tensor<f32>, tensor<f32>
  }
}
