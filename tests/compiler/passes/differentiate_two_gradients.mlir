// RUN: metagrad-opt %s --pass=cut,differentiate | filecheck %s

// Two gradients, the second taken where the first points to. The cotangents flow back from the last
// to the first: that of the first gradient is complete only when the second has sent its own back
// through @inputs_1.

module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 1 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [0]} {
  func.func public @step(%w: tensor<3xf32>, %z: tensor<3xf32>, %b: tensor<3xf32>) -> tensor<3xf32> {
    %v0, %g0 = "metagrad.grad"(%w, %b) {loss = @loss, wrt = [0]} : (tensor<3xf32>, tensor<3xf32>) -> (tensor<f32>, tensor<3xf32>)
    %away = stablehlo.multiply %z, %g0 : tensor<3xf32>
    %there = stablehlo.add %w, %away : tensor<3xf32>
    %v1, %g1 = "metagrad.grad"(%there, %b) {loss = @loss, wrt = [0]} : (tensor<3xf32>, tensor<3xf32>) -> (tensor<f32>, tensor<3xf32>)
    %move = stablehlo.multiply %g0, %g1 : tensor<3xf32>
    %n = stablehlo.subtract %w, %move : tensor<3xf32>
    return %n : tensor<3xf32>
  }
  func.func private @loss(%w: tensor<3xf32>, %x: tensor<3xf32>) -> tensor<f32> {
    %t = stablehlo.tanh %w : tensor<3xf32>
    %l = stablehlo.dot_general %t, %x, contracting_dims = [0] x [0] : (tensor<3xf32>, tensor<3xf32>) -> tensor<f32>
    return %l : tensor<f32>
  }
  func.func public @outer(%w: tensor<3xf32>) -> tensor<f32> {
    %l = stablehlo.dot_general %w, %w, contracting_dims = [0] x [0] : (tensor<3xf32>, tensor<3xf32>) -> tensor<f32>
    return %l : tensor<f32>
  }
}

// CHECK-LABEL: func.func private @step_vjp(
// CHECK-SAME:    %arg3: tensor<3xf32>, %arg4: tensor<3xf32>, %arg5: tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>) {
// The state, the first gradient, the second gradient:
// CHECK-NEXT:    [[U:%.+]]:3 = "enzyme.autodiff"(%arg0, %arg1, %arg2, %arg3, %arg4, %arg5) {{.*}}fn = @update
// The second gradient, whose inputs read the first:
// CHECK-NEXT:    [[READ1:%.+]]:2 = call @inputs_1(%arg0, %arg1, %arg2, %arg3)
// CHECK:         [[X1:%.+]] = "enzyme.fwddiff"([[READ1]]#0, [[U]]#2, [[READ1]]#1, {{%.+}}) {{.*}}fn = @loss_vjp_1
// CHECK-NEXT:    [[I1:%.+]]:3 = "enzyme.autodiff"(%arg0, %arg1, %arg2, %arg3, [[X1]]) {activity = [#enzyme.activity<enzyme_active>, #enzyme.activity<enzyme_active>, #enzyme.activity<enzyme_const>, #enzyme.activity<enzyme_active>], fn = @inputs_1
// CHECK-DAG:     [[W:%.+]] = stablehlo.add [[U]]#0, [[I1]]#0
// CHECK-DAG:     [[G0:%.+]] = stablehlo.add [[U]]#1, [[I1]]#2
// The first gradient, with all of its cotangent:
// CHECK:         [[READ0:%.+]]:2 = call @inputs_0(%arg0, %arg1, %arg2)
// CHECK:         [[X0:%.+]] = "enzyme.fwddiff"([[READ0]]#0, [[G0]], [[READ0]]#1, {{%.+}}) {{.*}}fn = @loss_vjp_0
// CHECK-NEXT:    [[W_BAR:%.+]] = stablehlo.add [[W]], [[X0]]
// CHECK-NEXT:    return [[W_BAR]], [[I1]]#1
