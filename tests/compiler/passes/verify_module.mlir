// RUN: not metagrad-opt %s --split-input-file 2>&1 | filecheck %s

// Text that is no MLIR.
// CHECK: metagrad-opt: this is not an MLIR module that metagrad can read: Unable to parse module assembly
let step = lambda w: w

// -----

// MLIR's own verifier speaks for the dialects that it knows.
// CHECK: error: {{.*}}: op requires the same element type for all operands and results
func.func @step(%w: tensor<f32>, %b: tensor<f64>) -> tensor<f32> {
  %n = "stablehlo.add"(%w, %b) : (tensor<f32>, tensor<f64>) -> tensor<f32>
  return %n : tensor<f32>
}

// -----

// CHECK: metagrad-opt: 'builtin.module' op stands at the top of the module; only functions do
module {
  module {}
}

// -----

// CHECK: metagrad-opt: 'func.func' op: @loss has no body; a module must hold all that it calls
func.func private @loss(tensor<f32>) -> tensor<f32>

// -----

// CHECK: metagrad-opt: 'func.func' op: `metagrad.vjp` names @by_jax, and there is no such function
func.func @outer(%w: tensor<f32>) -> tensor<f32> attributes {metagrad.vjp = @by_jax} {
  return %w : tensor<f32>
}

// -----

// CHECK: metagrad-opt: the module's `metagrad.arguments` attribute does not say how many arguments are `batch`: {meta = 1 : i64, outer = 0 : i64, state = 1 : i64}
module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"]} {
  func.func public @step(%w: tensor<f32>, %z: tensor<f32>) -> tensor<f32> {
    return %w : tensor<f32>
  }
}

// -----

// CHECK: metagrad-opt: metagrad.wrt names "weights"; it can name "state", "meta" and "batches"
module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta", "weights"]} {
  func.func public @step(%w: tensor<f32>, %z: tensor<f32>) -> tensor<f32> {
    return %w : tensor<f32>
  }
}

// -----

// CHECK: metagrad-opt: the module has no `metagrad.wrt` attribute; it needs one like ["meta"]
module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}} {
  func.func public @step(%w: tensor<f32>, %z: tensor<f32>) -> tensor<f32> {
    return %w : tensor<f32>
  }
}

// -----

// CHECK: metagrad-opt: @step takes 2 arguments, and metagrad.arguments says 3
module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 1 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"]} {
  func.func public @step(%w: tensor<f32>, %z: tensor<f32>) -> tensor<f32> {
    return %w : tensor<f32>
  }
}

// -----

// CHECK: metagrad-opt: @step must return a state of the types that it is given, first of its results
module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"]} {
  func.func public @step(%w: tensor<f32>, %z: tensor<2xf32>) -> tensor<2xf32> {
    return %z : tensor<2xf32>
  }
}

// -----

// CHECK: metagrad-opt: @outer must take the state first
module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = []} {
  func.func public @step(%w: tensor<f32>, %z: tensor<f32>) -> tensor<f32> {
    return %w : tensor<f32>
  }
  func.func public @outer(%w: tensor<f64>) -> tensor<f64> {
    return %w : tensor<f64>
  }
}

// -----

// CHECK: metagrad-opt: @outer must return a floating-point scalar first, or a vector of queries
module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = []} {
  func.func public @step(%w: tensor<2x2xf32>, %z: tensor<f32>) -> tensor<2x2xf32> {
    return %w : tensor<2x2xf32>
  }
  func.func public @outer(%w: tensor<2x2xf32>) -> tensor<2x2xf32> {
    return %w : tensor<2x2xf32>
  }
}

// -----

// CHECK: metagrad-opt: the module has no `metagrad.between_steps` attribute; it needs one like [0, 2]: the leaves of the state, by index and ascending, that depend on what `metagrad.wrt` names and that the outer value depends on
module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"]} {
  func.func public @step(%w: tensor<f32>, %z: tensor<f32>) -> tensor<f32> {
    return %w : tensor<f32>
  }
}

// -----

// CHECK: metagrad-opt: metagrad.between_steps lists leaf 1 of the state, and there are 1
module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [1]} {
  func.func public @step(%w: tensor<f32>, %z: tensor<f32>) -> tensor<f32> {
    return %w : tensor<f32>
  }
}

// -----

// CHECK: metagrad-opt: metagrad.between_steps lists leaf 0 of the state, of type tensor<i32>, which has no derivative
module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [0]} {
  func.func public @step(%w: tensor<i32>, %z: tensor<f32>) -> tensor<i32> {
    return %w : tensor<i32>
  }
}

// -----

// CHECK: metagrad-opt: metagrad.between_steps must list leaves once and ascending, not [1, 0]
module attributes {metagrad.arguments = {state = 2 : i64, meta = 0 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["state"], metagrad.between_steps = [1, 0]} {
  func.func public @step(%w: tensor<f32>, %v: tensor<f32>) -> (tensor<f32>, tensor<f32>) {
    return %w, %v : tensor<f32>, tensor<f32>
  }
}

// -----

// A step that is cut already: its update takes what the step takes, and then the gradients.
// CHECK: metagrad-opt: @update takes 1 arguments, and metagrad.arguments says 2 and then the results of the gradients
module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [0]} {
  func.func private @update(%w: tensor<f32>) -> tensor<f32> {
    return %w : tensor<f32>
  }
}

// -----

// CHECK: metagrad-opt: metagrad.unchanged lists leaf 2 of the state, and there are 1
module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [], metagrad.unchanged = [2]} {
  func.func public @step(%w: tensor<f32>, %z: tensor<f32>) -> tensor<f32> {
    return %w : tensor<f32>
  }
}

// -----

// CHECK: metagrad-opt: metagrad.unchanged and metagrad.counters both list leaf 0 of the state
module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [], metagrad.unchanged = [0], metagrad.counters = [0]} {
  func.func public @step(%n: tensor<i32>, %z: tensor<f32>) -> tensor<i32> {
    return %n : tensor<i32>
  }
}

// -----

// CHECK: metagrad-opt: metagrad.counters lists leaves of the state, and there is no function @counters that takes the state and meta and returns their new values
module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [], metagrad.counters = [0]} {
  func.func public @step(%n: tensor<i32>, %z: tensor<f32>) -> tensor<i32> {
    return %n : tensor<i32>
  }
}

// -----

// CHECK: metagrad-opt: @counters must take the state and meta, (tensor<i32>, tensor<f32>), and return the leaves that metagrad.counters lists, (tensor<i32>)
module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [], metagrad.counters = [0]} {
  func.func public @step(%n: tensor<i32>, %z: tensor<f32>) -> tensor<i32> {
    return %n : tensor<i32>
  }
  func.func private @counters(%n: tensor<i32>) -> tensor<i32> {
    return %n : tensor<i32>
  }
}
