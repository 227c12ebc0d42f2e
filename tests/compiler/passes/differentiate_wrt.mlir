// RUN: metagrad-opt %s --pass=cut,differentiate --split-input-file | filecheck %s

// The cotangents that @step_vjp returns: the active leaves of the state, then the float leaves of
// "meta", then those of "batches", whatever the order in `metagrad.wrt`.

module attributes {metagrad.arguments = {state = 2 : i64, meta = 2 : i64, batch = 2 : i64, outer = 0 : i64}, metagrad.wrt = ["batches", "state", "meta"], metagrad.between_steps = [0]} {
  func.func public @step(%w: tensor<2xf32>, %count: tensor<i32>, %z: tensor<2xf32>, %flag: tensor<i1>, %x: tensor<2xf32>, %y: tensor<2xi32>) -> (tensor<2xf32>, tensor<i32>) {
    %zx = stablehlo.multiply %z, %x : tensor<2xf32>
    %n = stablehlo.add %w, %zx : tensor<2xf32>
    return %n, %count : tensor<2xf32>, tensor<i32>
  }
  func.func public @outer(%w: tensor<2xf32>, %count: tensor<i32>) -> tensor<f32> {
    %l = stablehlo.dot_general %w, %w, contracting_dims = [0] x [0] : (tensor<2xf32>, tensor<2xf32>) -> tensor<f32>
    return %l : tensor<f32>
  }
}

// CHECK:       module attributes {metagrad.arguments = {{.*}}, metagrad.between_steps = [0],
// CHECK:       func.func private @step_vjp(
// CHECK-SAME:    %arg6: tensor<2xf32>) -> (tensor<2xf32>, tensor<2xf32>, tensor<2xf32>) {
// CHECK-NEXT:    [[U:%.+]]:3 = "enzyme.autodiff"({{.*}}) {activity = [#enzyme.activity<enzyme_active>, #enzyme.activity<enzyme_const>, #enzyme.activity<enzyme_active>, #enzyme.activity<enzyme_const>, #enzyme.activity<enzyme_active>, #enzyme.activity<enzyme_const>], fn = @update
// CHECK-NEXT:    return [[U]]#0, [[U]]#1, [[U]]#2

// -----

// With respect to the batches alone.

module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 1 : i64, outer = 0 : i64}, metagrad.wrt = ["batches"], metagrad.between_steps = [0]} {
  func.func public @step(%w: tensor<2xf32>, %z: tensor<2xf32>, %x: tensor<2xf32>) -> tensor<2xf32> {
    %zx = stablehlo.multiply %z, %x : tensor<2xf32>
    %n = stablehlo.multiply %w, %zx : tensor<2xf32>
    return %n : tensor<2xf32>
  }
  func.func public @outer(%w: tensor<2xf32>) -> tensor<f32> {
    %l = stablehlo.dot_general %w, %w, contracting_dims = [0] x [0] : (tensor<2xf32>, tensor<2xf32>) -> tensor<f32>
    return %l : tensor<f32>
  }
}

// CHECK:       func.func private @step_vjp(
// CHECK-NEXT:    "enzyme.autodiff"({{.*}}) {activity = [#enzyme.activity<enzyme_active>, #enzyme.activity<enzyme_const>, #enzyme.activity<enzyme_active>], fn = @update
