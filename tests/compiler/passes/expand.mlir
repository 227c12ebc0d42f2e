// RUN: metagrad-opt %s --pass=expand | filecheck %s

// Enzyme's pipeline expands @inner, @step_vjp and @outer_vjp, each with all that it calls; the rest
// stays as it is.

module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [0]} {
  // The update is not differentiated where it is run: no simplification, no fusion.
  // CHECK-LABEL: func.func private @update(
  // CHECK-NEXT:    [[A:%.+]] = stablehlo.add %arg0, %arg2
  // CHECK-NEXT:    [[B:%.+]] = stablehlo.subtract [[A]], %arg2
  // CHECK-NEXT:    return [[B]]
  func.func private @update(%w: tensor<f64>, %z: tensor<f64>, %g: tensor<f64>) -> tensor<f64> {
    %a = stablehlo.add %w, %g : tensor<f64>
    %b = stablehlo.subtract %a, %g : tensor<f64>
    return %b : tensor<f64>
  }
  // The derivative of w w z in w is 2 w z. Nothing is called any more.
  // CHECK-LABEL: func.func private @inner(
  // CHECK-SAME:    %arg0: tensor<f64>, %arg1: tensor<f64>) -> tensor<f64> attributes {metagrad.by_enzyme} {
  // CHECK-NOT:     call
  // CHECK-NOT:     enzyme
  // CHECK:         [[WZ:%.+]] = stablehlo.multiply {{%.+}}, %arg0
  // CHECK-NEXT:    [[G:%.+]] = stablehlo.add [[WZ]], [[WZ]]
  // CHECK-NEXT:    return [[G]]
  func.func private @inner(%w: tensor<f64>, %z: tensor<f64>) -> tensor<f64> {
    %one = stablehlo.constant dense<1.0> : tensor<f64>
    %g = "enzyme.autodiff"(%w, %z, %one) {fn = @loss, activity = [#enzyme.activity<enzyme_active>, #enzyme.activity<enzyme_const>], ret_activity = [#enzyme.activity<enzyme_activenoneed>]}
      : (tensor<f64>, tensor<f64>, tensor<f64>) -> tensor<f64>
    return %g : tensor<f64>
  }
  // The tangent of that in the direction v is 2 v z.
  // CHECK-LABEL: func.func private @step_vjp({{.*}} attributes {metagrad.by_enzyme} {
  // CHECK-NOT:     enzyme
  // CHECK:         [[VZ:%.+]] = stablehlo.multiply %arg2, {{%.+}}
  // CHECK-NEXT:    [[T:%.+]] = stablehlo.add [[VZ]], [[VZ]]
  // CHECK-NEXT:    return [[T]]
  func.func private @step_vjp(%w: tensor<f64>, %z: tensor<f64>, %v: tensor<f64>) -> tensor<f64> {
    %t = "enzyme.fwddiff"(%w, %v, %z) {fn = @loss_grad, activity = [#enzyme.activity<enzyme_dup>, #enzyme.activity<enzyme_const>], ret_activity = [#enzyme.activity<enzyme_dupnoneed>]}
      : (tensor<f64>, tensor<f64>, tensor<f64>) -> tensor<f64>
    return %t : tensor<f64>
  }
  func.func private @loss_grad(%w: tensor<f64>, %z: tensor<f64>) -> tensor<f64> {
    %one = stablehlo.constant dense<1.0> : tensor<f64>
    %g = "enzyme.autodiff"(%w, %z, %one) {fn = @loss, activity = [#enzyme.activity<enzyme_active>, #enzyme.activity<enzyme_const>], ret_activity = [#enzyme.activity<enzyme_activenoneed>]}
      : (tensor<f64>, tensor<f64>, tensor<f64>) -> tensor<f64>
    return %g : tensor<f64>
  }
  func.func private @loss(%w: tensor<f64>, %z: tensor<f64>) -> tensor<f64> {
    %square = stablehlo.multiply %w, %w : tensor<f64>
    %l = stablehlo.multiply %square, %z : tensor<f64>
    return %l : tensor<f64>
  }
  // Nothing is differentiated here, so it is not sent. Outside of what is differentiated the mark
  // means nothing.
  // CHECK-LABEL: func.func private @outer_vjp(
  // CHECK-NEXT:    return %arg0
  func.func private @outer_vjp(%w: tensor<f64>) -> tensor<f64> {
    %s = "enzyme.ignore_derivatives"(%w) : (tensor<f64>) -> tensor<f64>
    return %s : tensor<f64>
  }
}
