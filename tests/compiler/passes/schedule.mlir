// RUN: metagrad-opt %s --pass=schedule --steps=3 --schedule='StoreAll()' | filecheck %s --check-prefixes=CHECK,STORE
// RUN: metagrad-opt %s --pass=schedule --steps=1000 --schedule='LazyKary(k=2)' | filecheck %s --check-prefixes=CHECK,LAZY
// RUN: metagrad-opt %s --pass=schedule --steps=3 --schedule='Periodic(every=2,keep_gradients=False)' | filecheck %s --check-prefixes=CHECK,PLAIN

// @main is loops and tables around one call of each piece, whatever the number of steps and the
// schedule are. The batches and the step's auxiliary result have a leading axis with an entry for
// each step.

module attributes {metagrad.arguments = {state = 2 : i64, meta = 1 : i64, batch = 1 : i64, outer = 1 : i64}, metagrad.wrt = ["meta", "batches"], metagrad.between_steps = [0]} {
  func.func private @inner(%w: tensor<3xf32>, %count: tensor<i32>, %z: tensor<3xf32>, %b: tensor<2xf32>) -> tensor<3xf32> {
    return %w : tensor<3xf32>
  }
  func.func private @update(%w: tensor<3xf32>, %count: tensor<i32>, %z: tensor<3xf32>, %b: tensor<2xf32>, %g: tensor<3xf32>) -> (tensor<3xf32>, tensor<i32>, tensor<f64>) {
    %aux = stablehlo.constant dense<0.0> : tensor<f64>
    return %g, %count, %aux : tensor<3xf32>, tensor<i32>, tensor<f64>
  }
  func.func private @step_vjp(%w: tensor<3xf32>, %count: tensor<i32>, %z: tensor<3xf32>, %b: tensor<2xf32>, %g: tensor<3xf32>, %w_bar: tensor<3xf32>)
      -> (tensor<3xf32>, tensor<3xf32>, tensor<2xf32>) {
    return %w_bar, %g, %b : tensor<3xf32>, tensor<3xf32>, tensor<2xf32>
  }
  func.func private @outer_vjp(%w: tensor<3xf32>, %count: tensor<i32>, %target: tensor<3xf32>) -> (tensor<f32>, tensor<i32>, tensor<3xf32>) {
    %v = stablehlo.constant dense<0.0> : tensor<f32>
    return %v, %count, %target : tensor<f32>, tensor<i32>, tensor<3xf32>
  }
}

// The results: value and auxiliary result of the outer function, the gradient, the final state, the
// stacked auxiliary results of the steps.
// CHECK-LABEL: func.func public @main(
// STORE-SAME:    %arg0: tensor<3xf32>, %arg1: tensor<i32>, %arg2: tensor<3xf32>, %arg3: tensor<3x2xf32>, %arg4: tensor<3xf32>)
// STORE-SAME:    -> (tensor<f32>, tensor<i32>, tensor<3xf32>, tensor<3x2xf32>, tensor<3xf32>, tensor<i32>, tensor<3xf64>) {
// LAZY-SAME:     %arg0: tensor<3xf32>, %arg1: tensor<i32>, %arg2: tensor<3xf32>, %arg3: tensor<1000x2xf32>, %arg4: tensor<3xf32>)
// LAZY-SAME:     -> (tensor<f32>, tensor<i32>, tensor<3xf32>, tensor<1000x2xf32>, tensor<3xf32>, tensor<i32>, tensor<1000xf64>) {

// The plan as tables. For each walk: the slot that is loaded, the step whose state that is, where its
// runs and its segments start in the tables of runs and of segments ...
// STORE-NEXT:    stablehlo.constant dense<[0, 2]> : tensor<2xi32>
// STORE-NEXT:    stablehlo.constant dense<[0, 2]> : tensor<2xi32>
// STORE-NEXT:    stablehlo.constant dense<[0, 1, 1]> : tensor<3xi32>
// STORE-NEXT:    stablehlo.constant dense<[0, 1, 4]> : tensor<3xi32>
// ... for each run: how many steps, the slot that saves the state, and whether the next slots save
// those that follow; the slots that keep gradients, those that gradients are taken from, and whether
// the update is applied: a last run may only compute the gradient for the VJP ...
// STORE-NEXT:    stablehlo.constant dense<3> : tensor<1xi32>
// STORE-NEXT:    stablehlo.constant dense<1> : tensor<1xi32>
// STORE-NEXT:    stablehlo.constant dense<1> : tensor<1xi32>
// STORE-NEXT:    stablehlo.constant dense<0> : tensor<1xi32>
// STORE-NEXT:    stablehlo.constant dense<-1> : tensor<1xi32>
// STORE-NEXT:    stablehlo.constant dense<1> : tensor<1xi32>
// ... and for each segment the slots of its VJP's state and gradient.
// STORE-NEXT:    stablehlo.constant dense<[0, 2, 1, 0]> : tensor<4xi32>
// STORE-NEXT:    stablehlo.constant dense<[3, 2, 1, 0]> : tensor<4xi32>

// Slots: one stacked buffer for each leaf of the state, and one for the gradient if the plan keeps
// any. Behind the plan's slots stands one more of each, for what the next VJP alone needs.
// STORE:         : (tensor<f32>) -> tensor<4x3xf32>
// STORE:         : (tensor<i32>) -> tensor<4xi32>
// LAZY:          : (tensor<f32>) -> tensor<12x3xf32>
// LAZY:          : (tensor<i32>) -> tensor<12xi32>
// LAZY:          : (tensor<f32>) -> tensor<3x3xf32>
// PLAIN:         : (tensor<f32>) -> tensor<3x3xf32>
// PLAIN:         : (tensor<i32>) -> tensor<3xi32>
// PLAIN:         : (tensor<f32>) -> tensor<1x3xf32>

// CHECK:         call @inner(
// CHECK:         call @update(
// CHECK:         call @outer_vjp(
// CHECK:         call @step_vjp(
// CHECK-NOT:     call @
// CHECK:         return
