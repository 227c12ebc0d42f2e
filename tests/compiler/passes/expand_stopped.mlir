// RUN: metagrad-opt %s --pass=expand | filecheck %s

// What is stopped is a constant at every order. Here the loss is w * stop(w): its derivative is
// stop(w), and the derivative of that is zero.

// CHECK-LABEL: func.func private @inner(
// CHECK-NEXT:    [[ONE:%.+]] = stablehlo.constant dense<1.000000e+00> : tensor<f64>
// CHECK-NEXT:    [[G:%.+]] = stablehlo.multiply [[ONE]], %arg0
// CHECK-NEXT:    return [[G]]
func.func private @inner(%w: tensor<f64>) -> tensor<f64> {
  %g = func.call @loss_grad(%w) : (tensor<f64>) -> tensor<f64>
  return %g : tensor<f64>
}

// CHECK-LABEL: func.func private @step_vjp(
// CHECK-NEXT:    [[ZERO:%.+]] = stablehlo.constant dense<0.000000e+00> : tensor<f64>
// CHECK-NEXT:    return [[ZERO]]
func.func private @step_vjp(%w: tensor<f64>, %v: tensor<f64>) -> tensor<f64> {
  %t = "enzyme.fwddiff"(%w, %v) {fn = @loss_grad, activity = [#enzyme.activity<enzyme_dup>], ret_activity = [#enzyme.activity<enzyme_dupnoneed>]} : (tensor<f64>, tensor<f64>) -> tensor<f64>
  return %t : tensor<f64>
}

// A value that carries another derivative: w - (anchored(d) - d) is w, with the derivative of w +
// d. Nothing of it is left where it is not differentiated.
// CHECK-LABEL: func.func private @update(
// CHECK-NOT:     metagrad.stopped
// CHECK:         [[TWICE:%.+]] = stablehlo.add %arg0, %arg0
// CHECK-NEXT:    return [[TWICE]]
func.func private @update(%w: tensor<f64>, %d: tensor<f64>) -> tensor<f64> {
  %ignored = "enzyme.ignore_derivatives"(%d) : (tensor<f64>) -> tensor<f64>
  %anchored = stablehlo.custom_call @metagrad.anchored(%ignored) : (tensor<f64>) -> tensor<f64>
  %zero = stablehlo.subtract %anchored, %ignored : tensor<f64>
  %carrying = stablehlo.subtract %w, %zero : tensor<f64>
  %twice = stablehlo.add %carrying, %carrying : tensor<f64>
  return %twice : tensor<f64>
}

// What such a zero multiplies is zero as well, also where it is not a number: w + c * (d -
// anchored(d)) is w.
// CHECK-LABEL: func.func private @multiplied(
// CHECK-NEXT:    return %arg0
func.func private @multiplied(%w: tensor<f64>, %d: tensor<f64>, %c: tensor<f64>) -> tensor<f64> {
  %anchored = stablehlo.custom_call @metagrad.anchored(%d) : (tensor<f64>) -> tensor<f64>
  %zero = stablehlo.subtract %d, %anchored : tensor<f64>
  %product = stablehlo.multiply %c, %zero : tensor<f64>
  %sum = stablehlo.add %product, %w : tensor<f64>
  return %sum : tensor<f64>
}

// The same as a user writes it with stop_gradient is computed as it stands.
// CHECK-LABEL: func.func private @straight_through(
// CHECK-NEXT:    [[ZERO:%.+]] = stablehlo.subtract %arg1, %arg1
// CHECK-NEXT:    [[SUM:%.+]] = stablehlo.add %arg0, [[ZERO]]
// CHECK-NEXT:    return [[SUM]]
func.func private @straight_through(%w: tensor<f64>, %d: tensor<f64>) -> tensor<f64> {
  %stopped = stablehlo.custom_call @metagrad.stopped(%d) : (tensor<f64>) -> tensor<f64>
  %zero = stablehlo.subtract %d, %stopped : tensor<f64>
  %sum = stablehlo.add %w, %zero : tensor<f64>
  return %sum : tensor<f64>
}

func.func private @loss_grad(%w: tensor<f64>) -> tensor<f64> {
  %one = stablehlo.constant dense<1.0> : tensor<f64>
  %g = "enzyme.autodiff"(%w, %one) {fn = @loss, activity = [#enzyme.activity<enzyme_active>], ret_activity = [#enzyme.activity<enzyme_activenoneed>]} : (tensor<f64>, tensor<f64>) -> tensor<f64>
  return %g : tensor<f64>
}

func.func private @loss(%w: tensor<f64>) -> tensor<f64> {
  %ignored = "enzyme.ignore_derivatives"(%w) : (tensor<f64>) -> tensor<f64>
  %stopped = stablehlo.custom_call @metagrad.stopped(%ignored) : (tensor<f64>) -> tensor<f64>
  %l = stablehlo.multiply %w, %stopped : tensor<f64>
  return %l : tensor<f64>
}
