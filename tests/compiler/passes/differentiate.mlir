// RUN: metagrad-opt %s --pass=cut,differentiate | filecheck %s

// The mixed-mode rule, on one gradient whose loss reads a product of the metaparameters and the
// batch.

module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 1 : i64, outer = 1 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [0]} {
  func.func public @step(%w: tensor<3xf32>, %z: tensor<3xf32>, %b: tensor<3xf32>) -> tensor<3xf32> {
    %x = stablehlo.multiply %z, %b : tensor<3xf32>
    %v, %g = "metagrad.grad"(%w, %x) {loss = @loss, wrt = [0]} : (tensor<3xf32>, tensor<3xf32>) -> (tensor<f32>, tensor<3xf32>)
    %scaled = stablehlo.multiply %z, %g : tensor<3xf32>
    %n = stablehlo.subtract %w, %scaled : tensor<3xf32>
    return %n : tensor<3xf32>
  }
  func.func private @loss(%w: tensor<3xf32>, %x: tensor<3xf32>) -> tensor<f32> {
    %t = stablehlo.tanh %w : tensor<3xf32>
    %l = stablehlo.dot_general %t, %x, contracting_dims = [0] x [0] : (tensor<3xf32>, tensor<3xf32>) -> tensor<f32>
    return %l : tensor<f32>
  }
  func.func public @outer(%w: tensor<3xf32>, %target: tensor<3xf32>) -> (tensor<f32>, tensor<3xf32>) {
    %l = stablehlo.dot_general %w, %target, contracting_dims = [0] x [0] : (tensor<3xf32>, tensor<3xf32>) -> tensor<f32>
    return %l, %w : tensor<f32>, tensor<3xf32>
  }
}

// CHECK: module attributes {metagrad.arguments = {{.*}}, metagrad.between_steps = [0],

// The gradient itself is reverse mode of its loss.
// CHECK-LABEL: func.func private @inner(
// CHECK-NEXT:    [[READ:%.+]]:2 = call @inputs_0(%arg0, %arg1, %arg2)
// CHECK-NEXT:    [[ONE:%.+]] = stablehlo.constant dense<1.000000e+00> : tensor<f32>
// CHECK-NEXT:    [[G:%.+]] = "enzyme.autodiff"([[READ]]#0, [[READ]]#1, [[ONE]]) {activity = [#enzyme.activity<enzyme_active>, #enzyme.activity<enzyme_const>], fn = @loss, ret_activity = [#enzyme.activity<enzyme_activenoneed>]}
// CHECK-NEXT:    return [[G]]

// The outer function gives its value, its auxiliary result and the cotangent of the state; its own
// arguments get none.
// CHECK-LABEL: func.func private @outer_vjp(
// CHECK-SAME:    %arg0: tensor<3xf32>, %arg1: tensor<3xf32>) -> (tensor<f32>, tensor<3xf32>, tensor<3xf32>) {
// CHECK-NEXT:    [[ONE:%.+]] = stablehlo.constant dense<1.000000e+00> : tensor<f32>
// CHECK-NEXT:    [[R:%.+]]:3 = "enzyme.autodiff"(%arg0, %arg1, [[ONE]]) {activity = [#enzyme.activity<enzyme_active>, #enzyme.activity<enzyme_const>], fn = @outer, ret_activity = [#enzyme.activity<enzyme_active>, #enzyme.activity<enzyme_const>]}
// CHECK-NEXT:    return [[R]]#0, [[R]]#1, [[R]]#2

// @step_vjp takes what @update takes, and the cotangent of the new state.
// CHECK-LABEL: func.func private @step_vjp(
// CHECK-SAME:    %arg0: tensor<3xf32>, %arg1: tensor<3xf32>, %arg2: tensor<3xf32>, %arg3: tensor<3xf32>, %arg4: tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>) {
// First back through the update: cotangents of the state, the metaparameters and the gradient.
// CHECK-NEXT:    [[U:%.+]]:3 = "enzyme.autodiff"(%arg0, %arg1, %arg2, %arg3, %arg4) {activity = [#enzyme.activity<enzyme_active>, #enzyme.activity<enzyme_active>, #enzyme.activity<enzyme_const>, #enzyme.activity<enzyme_active>], fn = @update,
// Then forward over the loss's VJP, in the direction of the gradient's cotangent.
// CHECK-NEXT:    [[READ:%.+]]:2 = call @inputs_0(%arg0, %arg1, %arg2)
// CHECK-NEXT:    [[ONE:%.+]] = stablehlo.constant dense<1.000000e+00> : tensor<f32>
// CHECK-NEXT:    [[X:%.+]]:2 = "enzyme.fwddiff"([[READ]]#0, [[U]]#2, [[READ]]#1, [[ONE]]) {activity = [#enzyme.activity<enzyme_dup>, #enzyme.activity<enzyme_const>, #enzyme.activity<enzyme_const>], fn = @loss_vjp_0, ret_activity = [#enzyme.activity<enzyme_dupnoneed>, #enzyme.activity<enzyme_dupnoneed>]}
// Then back through what the loss reads. The state is passed on untouched, so its cotangent needs
// no differentiation.
// CHECK-NEXT:    [[Z:%.+]] = "enzyme.autodiff"(%arg0, %arg1, %arg2, [[X]]#1) {activity = [#enzyme.activity<enzyme_const>, #enzyme.activity<enzyme_active>, #enzyme.activity<enzyme_const>], fn = @inputs_0, ret_activity = [#enzyme.activity<enzyme_constnoneed>, #enzyme.activity<enzyme_activenoneed>]}
// CHECK-DAG:     [[W_BAR:%.+]] = stablehlo.add [[U]]#0, [[X]]#0
// CHECK-DAG:     [[Z_BAR:%.+]] = stablehlo.add [[U]]#1, [[Z]]
// CHECK:         return [[W_BAR]], [[Z_BAR]]

// The loss's VJP: cotangents of all that the loss reads, so that one forward sweep over it has the
// mixed derivatives as well.
// CHECK-LABEL: func.func private @loss_vjp_0(
// CHECK-SAME:    %arg0: tensor<3xf32>, %arg1: tensor<3xf32>, %arg2: tensor<f32>) -> (tensor<3xf32>, tensor<3xf32>) {
// CHECK-NEXT:    [[X:%.+]]:2 = "enzyme.autodiff"(%arg0, %arg1, %arg2) {activity = [#enzyme.activity<enzyme_active>, #enzyme.activity<enzyme_active>], fn = @loss,
// CHECK-NEXT:    return [[X]]#0, [[X]]#1
