// RUN: metagrad-opt %s --pass=raise-gradients | filecheck %s

// What JAX could only say as custom calls becomes the ops that they mean.

// CHECK-LABEL: func.func public @step(
func.func public @step(%w: tensor<3xf32>, %b: tensor<3xf32>) -> tensor<3xf32> {
  // The mark of what is stopped is two: Enzyme drops the first when it differentiates, and the
  // second is there to renew it for the second order.
  // CHECK-NEXT: [[IGNORED:%.+]] = "enzyme.ignore_derivatives"(%arg1) : (tensor<3xf32>) -> tensor<3xf32>
  // CHECK-NEXT: [[STOPPED:%.+]] = stablehlo.custom_call @metagrad.stopped([[IGNORED]]) : (tensor<3xf32>) -> tensor<3xf32>
  %stopped = stablehlo.custom_call @metagrad.stop_gradient(%b) : (tensor<3xf32>) -> tensor<3xf32>
  // CHECK-NEXT: [[G:%.+]]:2 = "metagrad.grad"(%arg0, [[STOPPED]]) {label = "loss (train.py:7)", loss = @loss, wrt = [0]} : (tensor<3xf32>, tensor<3xf32>) -> (tensor<f32>, tensor<3xf32>)
  %g:2 = stablehlo.custom_call @metagrad.grad(%w, %stopped) {
    api_version = 4 : i32, called_computations = [@loss],
    mhlo.backend_config = {loss = @loss, wrt = [0], label = "loss (train.py:7)"}
  } : (tensor<3xf32>, tensor<3xf32>) -> (tensor<f32>, tensor<3xf32>)
  // A function that JAX differentiates in Enzyme's place brings its derivatives along.
  // CHECK-NEXT: [[H:%.+]]:2 = "metagrad.grad"([[G]]#1, %arg1) {grad = @loss_grad, grad_vjp = @loss_grad_vjp, loss = @loss, vjp = @loss_vjp, wrt = [0]}
  %h:2 = stablehlo.custom_call @metagrad.grad(%g#1, %b) {
    api_version = 4 : i32, called_computations = [@loss, @loss_grad, @loss_grad_vjp, @loss_vjp],
    mhlo.backend_config = {loss = @loss, wrt = [0], grad = @loss_grad, grad_vjp = @loss_grad_vjp, vjp = @loss_vjp}
  } : (tensor<3xf32>, tensor<3xf32>) -> (tensor<f32>, tensor<3xf32>)
  // CHECK-NEXT: return [[H]]#1
  return %h#1 : tensor<3xf32>
}

// Other custom calls are not ours, and marks inside of loops are found.
// CHECK-LABEL: func.func private @loss(
func.func private @loss(%w: tensor<3xf32>, %b: tensor<3xf32>) -> tensor<f32> {
  %zero = stablehlo.constant dense<0> : tensor<i64>
  %turns = stablehlo.constant dense<3> : tensor<i64>
  %one = stablehlo.constant dense<1> : tensor<i64>
  // CHECK: stablehlo.while
  %r:2 = stablehlo.while(%i = %zero, %h = %w) : tensor<i64>, tensor<3xf32>
  cond {
    %c = stablehlo.compare LT, %i, %turns : (tensor<i64>, tensor<i64>) -> tensor<i1>
    stablehlo.return %c : tensor<i1>
  } do {
    // CHECK: "enzyme.ignore_derivatives"
    %s = stablehlo.custom_call @metagrad.stop_gradient(%h) : (tensor<3xf32>) -> tensor<3xf32>
    %n = stablehlo.multiply %s, %b : tensor<3xf32>
    %j = stablehlo.add %i, %one : tensor<i64>
    stablehlo.return %j, %n : tensor<i64>, tensor<3xf32>
  }
  // CHECK: stablehlo.custom_call @Sharding
  %k = stablehlo.custom_call @Sharding(%r#1) : (tensor<3xf32>) -> tensor<3xf32>
  %l = stablehlo.dot_general %k, %k, contracting_dims = [0] x [0] : (tensor<3xf32>, tensor<3xf32>) -> tensor<f32>
  return %l : tensor<f32>
}

// A constant of the first differentiation alone has no mark; one whose difference to the value is
// zero has its own.
// CHECK-LABEL: func.func private @marks(
// CHECK-NEXT:    [[ONCE:%.+]] = "enzyme.ignore_derivatives"(%arg0)
// CHECK-NEXT:    [[IGNORED:%.+]] = "enzyme.ignore_derivatives"(%arg0)
// CHECK-NEXT:    [[ANCHORED:%.+]] = stablehlo.custom_call @metagrad.anchored([[IGNORED]])
// CHECK-NEXT:    return [[ONCE]], [[ANCHORED]]
func.func private @marks(%x: tensor<f32>) -> (tensor<f32>, tensor<f32>) {
  %once = stablehlo.custom_call @metagrad.once(%x) : (tensor<f32>) -> tensor<f32>
  %anchor = stablehlo.custom_call @metagrad.anchor(%x) : (tensor<f32>) -> tensor<f32>
  return %once, %anchor : tensor<f32>, tensor<f32>
}

func.func private @loss_vjp(%w: tensor<3xf32>, %b: tensor<3xf32>, %seed: tensor<f32>) -> (tensor<3xf32>, tensor<3xf32>) {
  return %w, %b : tensor<3xf32>, tensor<3xf32>
}
func.func private @loss_grad(%w: tensor<3xf32>, %b: tensor<3xf32>) -> (tensor<f32>, tensor<3xf32>) {
  %l = func.call @loss(%w, %b) : (tensor<3xf32>, tensor<3xf32>) -> tensor<f32>
  return %l, %b : tensor<f32>, tensor<3xf32>
}
func.func private @loss_grad_vjp(%w: tensor<3xf32>, %b: tensor<3xf32>, %seed: tensor<f32>, %v: tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>) {
  return %w, %b : tensor<3xf32>, tensor<3xf32>
}
