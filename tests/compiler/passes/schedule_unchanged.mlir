// RUN: metagrad-opt %s --pass=schedule --steps=5 --schedule='LazyKary(k=2)' | filecheck %s

// Leaf 1 of the state is returned by every step as it came, leaf 2 is a counter. Neither is stored
// or carried: the first is read from the arguments, the second from a table that is filled before
// the run. Of meta's two leaves the second has a cotangent of zeros, which no loop carries either.

module attributes {metagrad.arguments = {state = 3 : i64, meta = 2 : i64, batch = 1 : i64, outer = 0 : i64}, metagrad.wrt = ["meta", "state"], metagrad.between_steps = [0], metagrad.unchanged = [1], metagrad.counters = [2]} {
  func.func private @inner(%w: tensor<3xf32>, %data: tensor<99xf32>, %n: tensor<i32>, %z: tensor<4xf32>, %unread: tensor<77xf32>, %b: tensor<2xf32>) -> tensor<3xf32> {
    return %w : tensor<3xf32>
  }
  func.func private @update(%w: tensor<3xf32>, %data: tensor<99xf32>, %n: tensor<i32>, %z: tensor<4xf32>, %unread: tensor<77xf32>, %b: tensor<2xf32>, %g: tensor<3xf32>) -> (tensor<3xf32>, tensor<99xf32>, tensor<i32>) {
    %one = stablehlo.constant dense<1> : tensor<i32>
    %next = stablehlo.add %n, %one : tensor<i32>
    return %g, %data, %next : tensor<3xf32>, tensor<99xf32>, tensor<i32>
  }
  func.func private @counters(%w: tensor<3xf32>, %data: tensor<99xf32>, %n: tensor<i32>, %z: tensor<4xf32>, %unread: tensor<77xf32>) -> tensor<i32> {
    %one = stablehlo.constant dense<1> : tensor<i32>
    %next = stablehlo.add %n, %one : tensor<i32>
    return %next : tensor<i32>
  }
  func.func private @by_jax(%z: tensor<4xf32>) -> (tensor<4xf32>, tensor<77xf32>) {
    %zero = stablehlo.constant dense<0.0> : tensor<f32>
    %zeros = stablehlo.broadcast_in_dim %zero, dims = [] : (tensor<f32>) -> tensor<77xf32>
    return %z, %zeros : tensor<4xf32>, tensor<77xf32>
  }
  func.func private @step_vjp(%w: tensor<3xf32>, %data: tensor<99xf32>, %n: tensor<i32>, %z: tensor<4xf32>, %unread: tensor<77xf32>, %b: tensor<2xf32>, %g: tensor<3xf32>, %w_bar: tensor<3xf32>) -> (tensor<3xf32>, tensor<4xf32>, tensor<77xf32>) {
    %bars:2 = func.call @by_jax(%z) : (tensor<4xf32>) -> (tensor<4xf32>, tensor<77xf32>)
    return %w_bar, %bars#0, %bars#1 : tensor<3xf32>, tensor<4xf32>, tensor<77xf32>
  }
  func.func private @outer_vjp(%w: tensor<3xf32>, %data: tensor<99xf32>, %n: tensor<i32>) -> (tensor<f32>, tensor<3xf32>) {
    %v = stablehlo.constant dense<0.0> : tensor<f32>
    return %v, %w : tensor<f32>, tensor<3xf32>
  }
}

// The results: the value; the gradient, zeros for the unchanged leaf (no cotangent of it goes from
// step to step) and for what is not read; the final state.
// CHECK-LABEL: func.func public @main(
// CHECK-SAME:    %arg0: tensor<3xf32>, %arg1: tensor<99xf32>, %arg2: tensor<i32>, %arg3: tensor<4xf32>, %arg4: tensor<77xf32>, %arg5: tensor<5x2xf32>)
// CHECK-SAME:    -> (tensor<f32>, tensor<3xf32>, tensor<99xf32>, tensor<4xf32>, tensor<77xf32>, tensor<3xf32>, tensor<99xf32>, tensor<i32>) {

// The table of the counter.
// CHECK:         %[[TABLE:.+]]:3 = stablehlo.while({{.*}}) : tensor<i32>, tensor<i32>, tensor<6xi32>
// CHECK:         func.call @counters(%arg0, %arg1, %{{[^,]+}}, %arg3, %arg4)
// CHECK:         stablehlo.dynamic_update_slice

// Slots for w alone; the loop over the segments carries nothing of the others.
// CHECK:         stablehlo.while({{.*}}) : tensor<i32>, tensor<5x3xf32>, tensor<3x3xf32>, tensor<f32>, tensor<3xf32>, tensor<3xf32>, tensor<4xf32>
// CHECK-NOT:     stablehlo.while({{.*}}tensor<77xf32>
// CHECK-NOT:     stablehlo.while({{.*}}tensor<99xf32>
// CHECK:         stablehlo.dynamic_slice %[[TABLE]]#2, {{.*}}, sizes = [1]
// CHECK:         call @inner(%{{[^,]+}}, %arg1, %{{[^,]+}}, %arg3, %arg4, %{{[^,]+}})
// CHECK:         call @update(%{{[^,]+}}, %arg1, %{{[^,]+}}, %arg3, %arg4, %{{[^,]+}}, %{{[^,]+}})
// CHECK:         call @outer_vjp(%{{[^,]+}}, %arg1, %{{[^,]+}})
// CHECK:         call @step_vjp(%{{[^,]+}}, %arg1, %{{[^,]+}}, %arg3, %arg4,
// CHECK:         stablehlo.dynamic_slice %[[TABLE]]#2, {{.*}}, sizes = [1]
// CHECK:         %[[UNMOVED:.+]] = stablehlo.broadcast_in_dim %{{.+}}, dims = [] : (tensor<f32>) -> tensor<99xf32>
// CHECK:         %[[UNREAD:.+]] = stablehlo.broadcast_in_dim %{{.+}}, dims = [] : (tensor<f32>) -> tensor<77xf32>
// CHECK:         return %{{[^,]+}}, %{{[^,]+}}, %[[UNMOVED]], %{{[^,]+}}, %[[UNREAD]], %{{[^,]+}}, %arg1, %{{[^,]+}} :
