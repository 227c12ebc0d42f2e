// RUN: metagrad-opt %s --pass=cut,differentiate --split-input-file | filecheck %s

// What does not depend on the metaparameters, or does not reach the outer value, gets no cotangent.
// The state: weights, a step counter, a frozen leaf that the loss reads, a flag, an average of the
// weights that nothing reads.

module attributes {metagrad.arguments = {state = 5 : i64, meta = 1 : i64, batch = 1 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [0]} {
  func.func public @step(%w: tensor<3xf32>, %count: tensor<i32>, %frozen: tensor<3xf32>, %flag: tensor<i1>, %mean: tensor<3xf32>, %z: tensor<3xf32>, %b: tensor<3xf32>)
      -> (tensor<3xf32>, tensor<i32>, tensor<3xf32>, tensor<i1>, tensor<3xf32>) {
    %v, %g = "metagrad.grad"(%w, %frozen, %z, %b) {loss = @loss, wrt = [0]} : (tensor<3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3xf32>) -> (tensor<f32>, tensor<3xf32>)
    %n = stablehlo.subtract %w, %g : tensor<3xf32>
    %kept = stablehlo.select %flag, %w, %n : tensor<i1>, tensor<3xf32>
    %one = stablehlo.constant dense<1> : tensor<i32>
    %next = stablehlo.add %count, %one : tensor<i32>
    %other = stablehlo.not %flag : tensor<i1>
    %new_mean = stablehlo.add %mean, %kept : tensor<3xf32>
    return %kept, %next, %frozen, %other, %new_mean : tensor<3xf32>, tensor<i32>, tensor<3xf32>, tensor<i1>, tensor<3xf32>
  }
  func.func private @loss(%w: tensor<3xf32>, %frozen: tensor<3xf32>, %z: tensor<3xf32>, %b: tensor<3xf32>) -> tensor<f32> {
    %t = stablehlo.multiply %w, %frozen : tensor<3xf32>
    %u = stablehlo.multiply %t, %z : tensor<3xf32>
    %l = stablehlo.dot_general %u, %b, contracting_dims = [0] x [0] : (tensor<3xf32>, tensor<3xf32>) -> tensor<f32>
    return %l : tensor<f32>
  }
  func.func public @outer(%w: tensor<3xf32>, %count: tensor<i32>, %frozen: tensor<3xf32>, %flag: tensor<i1>, %mean: tensor<3xf32>) -> tensor<f32> {
    %l = stablehlo.dot_general %w, %frozen, contracting_dims = [0] x [0] : (tensor<3xf32>, tensor<3xf32>) -> tensor<f32>
    return %l : tensor<f32>
  }
}

// CHECK:       module attributes {metagrad.arguments = {{.*}}, metagrad.between_steps = [0],
// CHECK:       func.func private @outer_vjp(
// CHECK-SAME:    -> (tensor<f32>, tensor<3xf32>) {
// CHECK:         "enzyme.autodiff"({{.*}}) {activity = [#enzyme.activity<enzyme_active>, #enzyme.activity<enzyme_const>, #enzyme.activity<enzyme_const>, #enzyme.activity<enzyme_const>, #enzyme.activity<enzyme_const>], fn = @outer

// One cotangent comes in, that of the new weights, and two go out: of the weights and of the
// metaparameters.
// CHECK:       func.func private @step_vjp(
// CHECK-SAME:    %arg7: tensor<3xf32>, %arg8: tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>) {
// CHECK-NEXT:    [[U:%.+]]:2 = "enzyme.autodiff"(
// CHECK-SAME:      fn = @update, ret_activity = [#enzyme.activity<enzyme_activenoneed>, #enzyme.activity<enzyme_constnoneed>, #enzyme.activity<enzyme_constnoneed>, #enzyme.activity<enzyme_constnoneed>, #enzyme.activity<enzyme_constnoneed>]}
// CHECK:         [[X:%.+]]:2 = "enzyme.fwddiff"(
// CHECK-NEXT:    [[W_BAR:%.+]] = stablehlo.add [[U]]#0, [[X]]#0
// CHECK-NEXT:    return [[W_BAR]], [[X]]#1

// Of the loss's operands only the weights and the metaparameters are differentiated: the frozen
// leaf and the batch are constants.
// CHECK:       func.func private @loss_vjp_0(
// CHECK-NEXT:    "enzyme.autodiff"({{.*}}) {activity = [#enzyme.activity<enzyme_active>, #enzyme.activity<enzyme_const>, #enzyme.activity<enzyme_active>, #enzyme.activity<enzyme_const>], fn = @loss

// -----

// `enzyme.ignore_derivatives` ends a dependence: the first leaf is reached from z, the second only
// through the mark.

module attributes {metagrad.arguments = {state = 2 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [0]} {
  func.func public @step(%a: tensor<f32>, %b: tensor<f32>, %z: tensor<f32>) -> (tensor<f32>, tensor<f32>) {
    %stopped = "enzyme.ignore_derivatives"(%z) : (tensor<f32>) -> tensor<f32>
    %c = stablehlo.multiply %a, %z : tensor<f32>
    %d = stablehlo.multiply %b, %stopped : tensor<f32>
    return %c, %d : tensor<f32>, tensor<f32>
  }
  func.func public @outer(%a: tensor<f32>, %b: tensor<f32>) -> tensor<f32> {
    %v = stablehlo.multiply %a, %b : tensor<f32>
    return %v : tensor<f32>
  }
}

// CHECK: module attributes {metagrad.arguments = {{.*}}, metagrad.between_steps = [0],
// CHECK: "enzyme.autodiff"(%arg0, %arg1, %arg2, %arg3) {activity = [#enzyme.activity<enzyme_active>, #enzyme.activity<enzyme_const>, #enzyme.activity<enzyme_active>], fn = @update, ret_activity = [#enzyme.activity<enzyme_activenoneed>, #enzyme.activity<enzyme_constnoneed>]}

// -----

// A fixed point: z reaches the first leaf, and that the second and third only in later steps; the
// outer function reads the third.

module attributes {metagrad.arguments = {state = 4 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [0, 1, 2]} {
  func.func public @step(%a: tensor<f32>, %b: tensor<f32>, %c: tensor<f32>, %d: tensor<f32>, %z: tensor<f32>) -> (tensor<f32>, tensor<f32>, tensor<f32>, tensor<f32>) {
    %a1 = stablehlo.add %a, %z : tensor<f32>
    %b1 = stablehlo.sine %a : tensor<f32>
    %c1 = stablehlo.sine %b : tensor<f32>
    %d1 = stablehlo.sine %c : tensor<f32>
    return %a1, %b1, %c1, %d1 : tensor<f32>, tensor<f32>, tensor<f32>, tensor<f32>
  }
  func.func public @outer(%a: tensor<f32>, %b: tensor<f32>, %c: tensor<f32>, %d: tensor<f32>) -> tensor<f32> {
    return %c : tensor<f32>
  }
}

// CHECK: module attributes {metagrad.arguments = {{.*}}, metagrad.between_steps = [0, 1, 2],

// -----

// Nothing reaches: the cotangent of the metaparameters is zero, and nothing is differentiated.

module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = []} {
  func.func public @step(%a: tensor<f32>, %z: tensor<2xf32>) -> tensor<f32> {
    %b = stablehlo.sine %a : tensor<f32>
    return %b : tensor<f32>
  }
  func.func public @outer(%a: tensor<f32>) -> tensor<f32> {
    return %a : tensor<f32>
  }
}

// CHECK:       module attributes {metagrad.arguments = {{.*}}, metagrad.between_steps = [],
// CHECK-NOT:   enzyme.autodiff
// CHECK:       func.func private @step_vjp(
// CHECK-NEXT:    [[ZERO:%.+]] = stablehlo.constant dense<0.000000e+00> : tensor<2xf32>
// CHECK-NEXT:    return [[ZERO]]
