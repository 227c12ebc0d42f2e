// RUN: metagrad-opt %s --pass='kernel{kernel=advance steps=4 checksums=True}' | filecheck %s --check-prefixes=ADVANCE
// RUN: metagrad-opt %s --pass='kernel{kernel=outer_vjp steps=4}' | filecheck %s --check-prefixes=OUTER
// RUN: metagrad-opt %s --pass='kernel{kernel=reverse steps=4 state_slots=4 gradient_slots=4}' | filecheck %s --check-prefixes=REVERSE
// RUN: not metagrad-opt %s --pass='kernel{steps=4}' 2>&1 | filecheck %s --check-prefixes=NAMELESS

// The programs that the streamed executor runs. The first leaf of the state is what training
// changes, the second never changes: it is taken and not given back.

module attributes {metagrad.arguments = {state = 2 : i64, meta = 1 : i64, batch = 1 : i64, outer = 1 : i64}, metagrad.wrt = ["meta", "batches"], metagrad.between_steps = [0], metagrad.unchanged = [1]} {
  func.func private @inner(%w: tensor<3xf32>, %mask: tensor<3xi32>, %z: tensor<3xf32>, %b: tensor<2xf32>) -> tensor<3xf32> {
    return %w : tensor<3xf32>
  }
  func.func private @update(%w: tensor<3xf32>, %mask: tensor<3xi32>, %z: tensor<3xf32>, %b: tensor<2xf32>, %g: tensor<3xf32>) -> (tensor<3xf32>, tensor<3xi32>, tensor<f64>) {
    %aux = stablehlo.constant dense<0.0> : tensor<f64>
    return %g, %mask, %aux : tensor<3xf32>, tensor<3xi32>, tensor<f64>
  }
  func.func private @step_vjp(%w: tensor<3xf32>, %mask: tensor<3xi32>, %z: tensor<3xf32>, %b: tensor<2xf32>, %g: tensor<3xf32>, %w_bar: tensor<3xf32>)
      -> (tensor<3xf32>, tensor<3xf32>, tensor<2xf32>) {
    return %w_bar, %g, %b : tensor<3xf32>, tensor<3xf32>, tensor<2xf32>
  }
  func.func private @outer_vjp(%w: tensor<3xf32>, %mask: tensor<3xi32>, %target: tensor<3xf32>) -> (tensor<f32>, tensor<3xf32>) {
    %v = stablehlo.constant dense<0.0> : tensor<f32>
    return %v, %target : tensor<f32>, tensor<3xf32>
  }
}

// State, meta, the batches of four steps and how many of them are run; the state that changes, the
// step's auxiliary results and a checksum. The last checksum is of what is written to slots in vain:
// steps are fused as in `reverse` only if they write the same.
// ADVANCE-LABEL: func.func public @main(
// ADVANCE-SAME:    %arg0: tensor<3xf32>, %arg1: tensor<3xi32>, %arg2: tensor<3xf32>, %arg3: tensor<4x2xf32>, %arg4: tensor<i32>)
// ADVANCE-SAME:    -> (tensor<3xf32>, tensor<4xf64>, tensor<ui32>, tensor<ui32>) {
// ADVANCE:         stablehlo.while
// ADVANCE:         call @inner(
// ADVANCE:         call @update(
// ADVANCE-NOT:     call @
// ADVANCE:         stablehlo.bitcast_convert
// ADVANCE:         return

// OUTER-LABEL:   func.func public @main(
// OUTER-SAME:      %arg0: tensor<3xf32>, %arg1: tensor<3xi32>, %arg2: tensor<3xf32>) -> (tensor<f32>, tensor<3xf32>) {
// OUTER-NEXT:      %[[RESULTS:.+]]:2 = call @outer_vjp(%arg0, %arg1, %arg2)
// OUTER-NEXT:      return %[[RESULTS]]#0, %[[RESULTS]]#1

// Behind the step's arguments stand the number of steps, that of walks, and the plan's tables; then
// the cotangents of state and meta. The results are those of state, meta and batches.
// REVERSE-LABEL: func.func public @main(
// REVERSE-SAME:    %arg0: tensor<3xf32>, %arg1: tensor<3xi32>, %arg2: tensor<3xf32>, %arg3: tensor<4x2xf32>, %arg4: tensor<i32>, %arg5: tensor<i32>,
// REVERSE-SAME:    %arg6: tensor<4x6xi32>, %arg7: tensor<6x20xi32>, %arg8: tensor<2x5xi32>, %arg9: tensor<3xf32>, %arg10: tensor<3xf32>)
// REVERSE-SAME:    -> (tensor<3xf32>, tensor<3xf32>, tensor<4x2xf32>) {
// REVERSE:         call @inner(
// REVERSE:         call @update(
// REVERSE-NOT:     call @outer_vjp(
// REVERSE:         call @step_vjp(
// REVERSE-NOT:     call @
// REVERSE:         return

// NAMELESS: metagrad-opt: pass 'kernel' writes advance, outer_vjp, reverse: kernel{kernel=advance steps=L}
