// RUN: metagrad-opt %s --pass=cut,differentiate | filecheck %s

// The loss's value scales the step, and an auxiliary result of the loss (the batch's mean, say)
// feeds the state. Their cotangents are tangents of the seeds of the loss's VJP, so one forward
// sweep covers the gradient, the value and the auxiliary result.

module attributes {metagrad.arguments = {state = 2 : i64, meta = 1 : i64, batch = 1 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [0, 1]} {
  func.func public @step(%w: tensor<3xf32>, %mean: tensor<3xf32>, %z: tensor<3xf32>, %b: tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>) {
    %v, %hits, %aux, %g = "metagrad.grad"(%w, %z, %b) {loss = @loss, wrt = [0]} : (tensor<3xf32>, tensor<3xf32>, tensor<3xf32>) -> (tensor<f32>, tensor<i32>, tensor<3xf32>, tensor<3xf32>)
    %by_value = stablehlo.broadcast_in_dim %v, dims = [] : (tensor<f32>) -> tensor<3xf32>
    %move = stablehlo.multiply %by_value, %g : tensor<3xf32>
    %n = stablehlo.subtract %w, %move : tensor<3xf32>
    %m = stablehlo.add %mean, %aux : tensor<3xf32>
    return %n, %m : tensor<3xf32>, tensor<3xf32>
  }
  func.func private @loss(%w: tensor<3xf32>, %z: tensor<3xf32>, %b: tensor<3xf32>) -> (tensor<f32>, tensor<i32>, tensor<3xf32>) {
    %hits = stablehlo.constant dense<0> : tensor<i32>
    %x = stablehlo.multiply %z, %b : tensor<3xf32>
    %t = stablehlo.tanh %w : tensor<3xf32>
    %l = stablehlo.dot_general %t, %x, contracting_dims = [0] x [0] : (tensor<3xf32>, tensor<3xf32>) -> tensor<f32>
    return %l, %hits, %x : tensor<f32>, tensor<i32>, tensor<3xf32>
  }
  func.func public @outer(%w: tensor<3xf32>, %mean: tensor<3xf32>) -> tensor<f32> {
    %l = stablehlo.dot_general %w, %mean, contracting_dims = [0] x [0] : (tensor<3xf32>, tensor<3xf32>) -> tensor<f32>
    return %l : tensor<f32>
  }
}

// The value is read and returned, beside the gradient; the integer, which nothing reads, is not.
// CHECK-LABEL: func.func private @inner(
// CHECK-SAME:    -> (tensor<f32>, tensor<3xf32>, tensor<3xf32>) {
// CHECK:         [[G:%.+]]:3 = "enzyme.autodiff"({{.*}}) {activity = [#enzyme.activity<enzyme_active>, #enzyme.activity<enzyme_const>, #enzyme.activity<enzyme_const>], fn = @loss, ret_activity = [#enzyme.activity<enzyme_active>, #enzyme.activity<enzyme_constnoneed>, #enzyme.activity<enzyme_const>]}
// CHECK-NEXT:    return [[G]]#0, [[G]]#1, [[G]]#2

// The update's cotangents: weights, mean, value, auxiliary result, gradient.
// CHECK-LABEL: func.func private @step_vjp(
// CHECK-NEXT:    [[U:%.+]]:5 = "enzyme.autodiff"({{.*}}fn = @update
// CHECK-NEXT:    [[READ:%.+]]:3 = call @inputs_0(
// CHECK-NEXT:    [[ONE:%.+]] = stablehlo.constant dense<1.000000e+00> : tensor<f32>
// CHECK-NEXT:    [[ZERO:%.+]] = stablehlo.constant dense<0.000000e+00> : tensor<3xf32>
// CHECK-NEXT:    [[X:%.+]]:2 = "enzyme.fwddiff"([[READ]]#0, [[U]]#4, [[READ]]#1, [[READ]]#2, [[ONE]], [[U]]#2, [[ZERO]], [[U]]#3) {activity = [#enzyme.activity<enzyme_dup>, #enzyme.activity<enzyme_const>, #enzyme.activity<enzyme_const>, #enzyme.activity<enzyme_dup>, #enzyme.activity<enzyme_dup>], fn = @loss_vjp_0
// CHECK-NEXT:    [[W_BAR:%.+]] = stablehlo.add [[U]]#0, [[X]]#0
// CHECK-NEXT:    return [[W_BAR]], [[U]]#1, [[X]]#1

// The VJP takes a seed of the value and one of the auxiliary result.
// CHECK-LABEL: func.func private @loss_vjp_0(
// CHECK-SAME:    %arg3: tensor<f32>, %arg4: tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>) {
// CHECK-NEXT:    "enzyme.autodiff"(%arg0, %arg1, %arg2, %arg3, %arg4) {{.*}}ret_activity = [#enzyme.activity<enzyme_activenoneed>, #enzyme.activity<enzyme_constnoneed>, #enzyme.activity<enzyme_activenoneed>]}
