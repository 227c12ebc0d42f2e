// RUN: metagrad-opt %s --pass=queries | filecheck %s
// RUN: metagrad-opt %s --pass=queries,schedule --steps=6 --schedule='StoreAll()' | filecheck %s --check-prefix=MAIN
// RUN: metagrad-opt %s --pass='queries,kernel{kernel=reverse steps=6}' | filecheck %s --check-prefix=REVERSE

// The outer value is a vector of five queries. What does not depend on the cotangent stays where it
// is; the rest goes through a loop, also what a call computes of both. What is broadcast is made in
// the loop, where it is read, and what is kept for the loop goes through a barrier in it. A result
// that depends on no cotangent is the same for every query.

module attributes {metagrad.arguments = {state = 1 : i64, meta = 2 : i64, batch = 1 : i64, outer = 1 : i64}, metagrad.wrt = ["meta", "batches"], metagrad.between_steps = [0]} {
  func.func private @inner(%w: tensor<3xf32>, %z: tensor<f32>, %unread: tensor<7xf32>, %b: tensor<3xf32>) -> tensor<3xf32> {
    return %w : tensor<3xf32>
  }
  func.func private @update(%w: tensor<3xf32>, %z: tensor<f32>, %unread: tensor<7xf32>, %b: tensor<3xf32>, %g: tensor<3xf32>) -> tensor<3xf32> {
    return %g : tensor<3xf32>
  }
  func.func private @both(%w: tensor<3xf32>, %bar: tensor<3xf32>) -> tensor<3xf32> {
    %primal = stablehlo.tanh %w : tensor<3xf32>
    %product = stablehlo.multiply %primal, %bar : tensor<3xf32>
    return %product : tensor<3xf32>
  }
  func.func private @step_vjp(%w: tensor<3xf32>, %z: tensor<f32>, %unread: tensor<7xf32>, %b: tensor<3xf32>, %g: tensor<3xf32>, %w_bar: tensor<3xf32>)
      -> (tensor<3xf32>, tensor<f32>, tensor<7xf32>, tensor<3xf32>) {
    %primal = stablehlo.sine %b : tensor<3xf32>
    %rate = stablehlo.exponential %z : tensor<f32>
    %rates = stablehlo.broadcast_in_dim %rate, dims = [] : (tensor<f32>) -> tensor<3xf32>
    %called = func.call @both(%w, %w_bar) : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xf32>
    %scaled = stablehlo.multiply %rates, %called : tensor<3xf32>
    %b_bar = stablehlo.add %scaled, %primal : tensor<3xf32>
    %zero = stablehlo.constant dense<0.0> : tensor<7xf32>
    return %w_bar, %z, %zero, %b_bar : tensor<3xf32>, tensor<f32>, tensor<7xf32>, tensor<3xf32>
  }
  func.func private @outer_vjp(%w: tensor<3xf32>, %target: tensor<5x3xf32>, %bar: tensor<5xf32>) -> (tensor<5xf32>, tensor<3xf32>, tensor<3xf32>) {
    %value = stablehlo.dot_general %target, %w, contracting_dims = [1] x [0] : (tensor<5x3xf32>, tensor<3xf32>) -> tensor<5xf32>
    %w_bar = stablehlo.dot_general %bar, %target, contracting_dims = [0] x [0] : (tensor<5xf32>, tensor<5x3xf32>) -> tensor<3xf32>
    return %value, %w, %w_bar : tensor<5xf32>, tensor<3xf32>, tensor<3xf32>
  }
}

// CHECK-LABEL: func.func private @step_vjp(
// CHECK-SAME:    %arg0: tensor<3xf32>, %arg1: tensor<f32>, %arg2: tensor<7xf32>, %arg3: tensor<3xf32>, %arg4: tensor<3xf32>, %[[BARS:arg5]]: tensor<5x3xf32>)
// CHECK-SAME:    -> (tensor<5x3xf32>, tensor<5xf32>, tensor<5x7xf32>, tensor<5x3xf32>) {
// CHECK:         %[[SINE:.+]] = stablehlo.sine %arg3
// CHECK:         %[[RATE:.+]] = stablehlo.exponential %arg1
// CHECK:         %[[TANH:.+]] = stablehlo.tanh %arg0
// CHECK:         %[[LOOP:.+]]:3 = stablehlo.while({{.*}}) : tensor<i32>, tensor<5x3xf32>, tensor<5x3xf32>
// CHECK:         stablehlo.compare LT
// CHECK:         %[[KEPT:.+]]:4 = stablehlo.optimization_barrier %{{[^,]+}}, %[[TANH]], %[[SINE]], %[[RATE]] :
// CHECK:         %[[RATES:.+]] = stablehlo.broadcast_in_dim %[[KEPT]]#3
// CHECK:         %[[SLICE:.+]] = stablehlo.dynamic_slice %[[BARS]]
// CHECK:         %[[BAR:.+]] = stablehlo.reshape %[[SLICE]]
// CHECK:         %[[PRODUCT:.+]] = stablehlo.multiply %[[KEPT]]#1, %[[BAR]]
// CHECK:         %[[SCALED:.+]] = stablehlo.multiply %[[RATES]], %[[PRODUCT]]
// CHECK:         stablehlo.add %[[SCALED]], %[[KEPT]]#2
// CHECK:         %[[RATE_BARS:.+]] = stablehlo.broadcast_in_dim %arg1, dims = [] : (tensor<f32>) -> tensor<5xf32>
// CHECK:         %[[ZEROS:.+]] = stablehlo.broadcast_in_dim %{{.+}}, dims = [1] : (tensor<7xf32>) -> tensor<5x7xf32>
// CHECK:         return %[[LOOP]]#1, %[[RATE_BARS]], %[[ZEROS]], %[[LOOP]]#2

// The cotangent of the value is a row of the identity.
// CHECK-LABEL: func.func private @outer_vjp(
// CHECK-SAME:    %arg0: tensor<3xf32>, %arg1: tensor<5x3xf32>) -> (tensor<5xf32>, tensor<3xf32>, tensor<5x3xf32>) {
// CHECK:         %[[SAME:.+]] = stablehlo.compare EQ
// CHECK:         %[[IDENTITY:.+]] = stablehlo.convert %[[SAME]] : (tensor<5x5xi1>) -> tensor<5x5xf32>
// CHECK:         %[[VALUE:.+]] = stablehlo.dot_general %arg1, %arg0
// CHECK:         %[[LOOP:.+]]:2 = stablehlo.while
// CHECK:         stablehlo.dynamic_slice %[[IDENTITY]]
// CHECK:         return %[[VALUE]], %arg0, %[[LOOP]]#1

// The gradient has the queries in front: before the steps of the batches' gradient too. The slots
// have no axis for them, and the zeros that are known to be zeros go through no loop.
// MAIN-LABEL: func.func public @main(
// MAIN-SAME:    -> (tensor<5xf32>, tensor<3xf32>, tensor<5xf32>, tensor<5x7xf32>, tensor<5x6x3xf32>, tensor<3xf32>) {
// MAIN:         stablehlo.while({{.*}}) : {{.*}}tensor<7x3xf32>, tensor<6x3xf32>, tensor<5xf32>, {{.*}}tensor<5x3xf32>, tensor<5xf32>, tensor<5x6x3xf32>
// MAIN-NOT:     stablehlo.while({{.*}}tensor<5x7xf32>
// MAIN:         %[[ROW:.+]] = stablehlo.reshape %{{.+}} : (tensor<5x3xf32>) -> tensor<5x1x3xf32>
// MAIN:         stablehlo.dynamic_update_slice %{{.+}}, %[[ROW]], {{.*}} : (tensor<5x6x3xf32>, tensor<5x1x3xf32>

// A program of the streamed executor takes and returns cotangents of all queries.
// REVERSE-LABEL: func.func public @main(
// REVERSE-SAME:    tensor<5x3xf32>, %{{[^:]+}}: tensor<5xf32>) -> (tensor<5x3xf32>, tensor<5xf32>, tensor<5x6x3xf32>) {
