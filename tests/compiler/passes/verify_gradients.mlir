// RUN: not metagrad-opt %s --split-input-file 2>&1 | filecheck %s

// CHECK: metagrad-opt: 'metagrad.grad' op has no `loss`; it must name a function of the module
func.func @step(%w: tensor<f32>) -> tensor<f32> {
  %v, %g = "metagrad.grad"(%w) {wrt = [0]} : (tensor<f32>) -> (tensor<f32>, tensor<f32>)
  return %g : tensor<f32>
}

// -----

// CHECK: metagrad-opt: 'metagrad.grad' op: `loss` names @risk, and there is no such function
func.func @step(%w: tensor<f32>) -> tensor<f32> {
  %v, %g = "metagrad.grad"(%w) {loss = @risk, wrt = [0]} : (tensor<f32>) -> (tensor<f32>, tensor<f32>)
  return %g : tensor<f32>
}

// -----

// CHECK: metagrad-opt: 'metagrad.grad' op: @loss takes (tensor<f32>, tensor<f32>), and is given (tensor<f32>, tensor<i32>)
func.func @step(%w: tensor<f32>, %b: tensor<i32>) -> tensor<f32> {
  %v, %g = "metagrad.grad"(%w, %b) {loss = @loss, wrt = [0]} : (tensor<f32>, tensor<i32>) -> (tensor<f32>, tensor<f32>)
  return %g : tensor<f32>
}
func.func private @loss(%w: tensor<f32>, %b: tensor<f32>) -> tensor<f32> {
  return %w : tensor<f32>
}

// -----

// CHECK: metagrad-opt: 'metagrad.grad' op: @loss must return a floating-point value first, not tensor<i32>
func.func @step(%w: tensor<i32>) -> tensor<i32> {
  %v = "metagrad.grad"(%w) {loss = @loss, wrt = []} : (tensor<i32>) -> tensor<i32>
  return %v : tensor<i32>
}
func.func private @loss(%w: tensor<i32>) -> tensor<i32> {
  return %w : tensor<i32>
}

// -----

// CHECK: metagrad-opt: 'metagrad.grad' op: @loss must return a floating-point value first, not None
func.func @step(%w: tensor<f32>) -> tensor<f32> {
  %g = "metagrad.grad"(%w) {loss = @loss, wrt = [0]} : (tensor<f32>) -> tensor<f32>
  return %g : tensor<f32>
}
func.func private @loss(%w: tensor<f32>) {
  return
}

// -----

// CHECK: metagrad-opt: 'metagrad.grad' op has no `wrt`; it needs the operands to differentiate, like wrt = [0]
func.func @step(%w: tensor<f32>) -> tensor<f32> {
  %v, %g = "metagrad.grad"(%w) {loss = @loss} : (tensor<f32>) -> (tensor<f32>, tensor<f32>)
  return %g : tensor<f32>
}
func.func private @loss(%w: tensor<f32>) -> tensor<f32> {
  return %w : tensor<f32>
}

// -----

// CHECK: metagrad-opt: 'metagrad.grad' op: wrt names operand 1, and there are 1
func.func @step(%w: tensor<f32>) -> tensor<f32> {
  %v, %g = "metagrad.grad"(%w) {loss = @loss, wrt = [1]} : (tensor<f32>) -> (tensor<f32>, tensor<f32>)
  return %g : tensor<f32>
}
func.func private @loss(%w: tensor<f32>) -> tensor<f32> {
  return %w : tensor<f32>
}

// -----

// CHECK: metagrad-opt: 'metagrad.grad' op: wrt names operand 1 of type tensor<i32>, which has no derivative
func.func @step(%w: tensor<f32>, %b: tensor<i32>) -> tensor<i32> {
  %v, %g = "metagrad.grad"(%w, %b) {loss = @loss, wrt = [1]} : (tensor<f32>, tensor<i32>) -> (tensor<f32>, tensor<i32>)
  return %g : tensor<i32>
}
func.func private @loss(%w: tensor<f32>, %b: tensor<i32>) -> tensor<f32> {
  return %w : tensor<f32>
}

// -----

// CHECK: metagrad-opt: 'metagrad.grad' op: wrt names an operand twice: [0, 0]
func.func @step(%w: tensor<f32>) -> tensor<f32> {
  %v, %g, %h = "metagrad.grad"(%w) {loss = @loss, wrt = [0, 0]} : (tensor<f32>) -> (tensor<f32>, tensor<f32>, tensor<f32>)
  return %g : tensor<f32>
}
func.func private @loss(%w: tensor<f32>) -> tensor<f32> {
  return %w : tensor<f32>
}

// -----

// CHECK: metagrad-opt: 'metagrad.grad' op must return the results of @loss and then one gradient for each of wrt: (tensor<f32>, tensor<i1>, tensor<3xf32>)
func.func @step(%w: tensor<3xf32>) -> tensor<3xf32> {
  %v, %g = "metagrad.grad"(%w) {loss = @loss, wrt = [0]} : (tensor<3xf32>) -> (tensor<f32>, tensor<3xf32>)
  return %g : tensor<3xf32>
}
func.func private @loss(%w: tensor<3xf32>) -> (tensor<f32>, tensor<i1>) {
  %v = stablehlo.constant dense<0.0> : tensor<f32>
  %t = stablehlo.constant dense<true> : tensor<i1>
  return %v, %t : tensor<f32>, tensor<i1>
}

// -----

// CHECK: metagrad-opt: 'metagrad.grad' op: `grad_vjp` names @by_jax, and there is no such function
func.func @step(%w: tensor<f32>) -> tensor<f32> {
  %v, %g = "metagrad.grad"(%w) {loss = @loss, wrt = [0], grad_vjp = @by_jax} : (tensor<f32>) -> (tensor<f32>, tensor<f32>)
  return %g : tensor<f32>
}
func.func private @loss(%w: tensor<f32>) -> tensor<f32> {
  return %w : tensor<f32>
}

// -----

// `cut` takes gradients out of the step's own body. One that is elsewhere would stay behind.
// CHECK: metagrad-opt: 'metagrad.grad' op stands in @model; only @step, and after 'cut' @inner, may hold one
func.func private @model(%w: tensor<f32>) -> tensor<f32> {
  %v, %g = "metagrad.grad"(%w) {loss = @loss, wrt = [0]} : (tensor<f32>) -> (tensor<f32>, tensor<f32>)
  return %g : tensor<f32>
}
func.func private @loss(%w: tensor<f32>) -> tensor<f32> {
  return %w : tensor<f32>
}

// -----

// CHECK: metagrad-opt: 'metagrad.grad' op stands in a region of 'stablehlo.while'; it must stand in the function's own body
func.func @step(%w: tensor<f32>) -> tensor<f32> {
  %r = stablehlo.while(%x = %w) : tensor<f32>
  cond {
    %c = stablehlo.compare LT, %x, %w : (tensor<f32>, tensor<f32>) -> tensor<i1>
    stablehlo.return %c : tensor<i1>
  } do {
    %v, %g = "metagrad.grad"(%x) {loss = @loss, wrt = [0]} : (tensor<f32>) -> (tensor<f32>, tensor<f32>)
    stablehlo.return %g : tensor<f32>
  }
  return %r : tensor<f32>
}
func.func private @loss(%w: tensor<f32>) -> tensor<f32> {
  return %w : tensor<f32>
}

// -----

// CHECK: metagrad-opt: 'metagrad.grad' op: kept lists result 2, and there are 2
func.func @step(%w: tensor<f32>) -> tensor<f32> {
  %v, %g = "metagrad.grad"(%w) {loss = @loss, wrt = [0], kept = [1, 2]} : (tensor<f32>) -> (tensor<f32>, tensor<f32>)
  return %g : tensor<f32>
}
func.func private @loss(%w: tensor<f32>) -> tensor<f32> {
  return %w : tensor<f32>
}

// -----

// CHECK: metagrad-opt: 'metagrad.grad' op: active lists operand 1, and there are 1
func.func @step(%w: tensor<f32>) -> tensor<f32> {
  %v, %g = "metagrad.grad"(%w) {loss = @loss, wrt = [0], active = [1]} : (tensor<f32>) -> (tensor<f32>, tensor<f32>)
  return %g : tensor<f32>
}
func.func private @loss(%w: tensor<f32>) -> tensor<f32> {
  return %w : tensor<f32>
}

// -----

// CHECK: metagrad-opt: 'metagrad.grad' op: kept does not list result 1, which is read
func.func @step(%w: tensor<f32>) -> tensor<f32> {
  %v, %g = "metagrad.grad"(%w) {loss = @loss, wrt = [0], kept = [0]} : (tensor<f32>) -> (tensor<f32>, tensor<f32>)
  return %g : tensor<f32>
}
func.func private @loss(%w: tensor<f32>) -> tensor<f32> {
  return %w : tensor<f32>
}

// -----

// CHECK: metagrad-opt: 'metagrad.grad' op has no `kept`; it needs the results by index, like kept = [0]
func.func @step(%w: tensor<f32>) -> tensor<f32> {
  %v, %g = "metagrad.grad"(%w) {loss = @loss, wrt = [0], kept = 1} : (tensor<f32>) -> (tensor<f32>, tensor<f32>)
  return %g : tensor<f32>
}
func.func private @loss(%w: tensor<f32>) -> tensor<f32> {
  return %w : tensor<f32>
}
