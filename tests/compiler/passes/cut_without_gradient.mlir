// RUN: metagrad-opt %s --pass=cut | filecheck %s

// A step that never calls metagrad.grad is all update; @inner has nothing to return.

module attributes {metagrad.arguments = {state = 2 : i64, meta = 1 : i64, batch = 1 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [0]} {
  func.func public @step(%w: tensor<3xf32>, %count: tensor<i32>, %z: tensor<3xf32>, %b: tensor<3xf32>) -> (tensor<3xf32>, tensor<i32>, tensor<3xf32>) {
    %move = stablehlo.multiply %z, %b : tensor<3xf32>
    %n = stablehlo.subtract %w, %move : tensor<3xf32>
    %one = stablehlo.constant dense<1> : tensor<i32>
    %next = stablehlo.add %count, %one : tensor<i32>
    return %n, %next, %move : tensor<3xf32>, tensor<i32>, tensor<3xf32>
  }
}

// CHECK-NOT:   @inputs_
// CHECK-LABEL: func.func private @update(
// CHECK-SAME:    %arg0: tensor<3xf32>, %arg1: tensor<i32>, %arg2: tensor<3xf32>, %arg3: tensor<3xf32>) -> (tensor<3xf32>, tensor<i32>, tensor<3xf32>) {
// CHECK:         stablehlo.multiply %arg2, %arg3
// CHECK-LABEL: func.func private @inner(
// CHECK-NEXT:    return
// CHECK-NEXT:  }
// CHECK-LABEL: func.func public @step(
// CHECK-NEXT:    call @inner(%arg0, %arg1, %arg2, %arg3) : (tensor<3xf32>, tensor<i32>, tensor<3xf32>, tensor<3xf32>) -> ()
// CHECK-NEXT:    [[N:%.+]]:3 = call @update(%arg0, %arg1, %arg2, %arg3)
// CHECK-NEXT:    return [[N]]#0, [[N]]#1, [[N]]#2
