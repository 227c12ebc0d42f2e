// RUN: metagrad-opt %s --pass=read-rows-in-place | filecheck %s

// Back through a loop: the rows are read from the last to the first, each once.
// CHECK-LABEL: func.func @backwards(
// CHECK:         dynamic_slice %arg0,
// CHECK-NOT:     dynamic_update_slice
func.func @backwards(%d: tensor<4x3xf32>) -> tensor<1x3xf32> {
  %zero = stablehlo.constant dense<0> : tensor<i64>
  %one = stablehlo.constant dense<1> : tensor<i64>
  %three = stablehlo.constant dense<3> : tensor<i64>
  %four = stablehlo.constant dense<4> : tensor<i64>
  %none = stablehlo.constant dense<0.0> : tensor<1x3xf32>
  %r:4 = stablehlo.while(%i = %zero, %j = %three, %a = %d, %s = %none) : tensor<i64>, tensor<i64>, tensor<4x3xf32>, tensor<1x3xf32>
  cond {
    %c = stablehlo.compare LT, %i, %four, SIGNED : (tensor<i64>, tensor<i64>) -> tensor<i1>
    stablehlo.return %c : tensor<i1>
  } do {
    %k = stablehlo.convert %j : (tensor<i64>) -> tensor<i32>
    %z = stablehlo.constant dense<0> : tensor<i32>
    %row = stablehlo.dynamic_slice %a, %k, %z, sizes = [1, 3] : (tensor<4x3xf32>, tensor<i32>, tensor<i32>) -> tensor<1x3xf32>
    %cleared = stablehlo.dynamic_update_slice %a, %none, %k, %z : (tensor<4x3xf32>, tensor<1x3xf32>, tensor<i32>, tensor<i32>) -> tensor<4x3xf32>
    %t = stablehlo.add %s, %row : tensor<1x3xf32>
    %up = stablehlo.add %i, %one : tensor<i64>
    %down = stablehlo.subtract %j, %one : tensor<i64>
    stablehlo.return %up, %down, %cleared, %t : tensor<i64>, tensor<i64>, tensor<4x3xf32>, tensor<1x3xf32>
  }
  return %r#3 : tensor<1x3xf32>
}

// Left alone: the cleared array is read after the loop; row 4 does not exist, so row 3 is read
// twice; another row is read than is cleared; another array is made of the one that is cleared.
// CHECK-LABEL: func.func @needed(
func.func @needed(%d: tensor<4x3xf32>) -> (tensor<4x3xf32>, tensor<1x3xf32>, tensor<1x3xf32>, tensor<4x3xf32>) {
  %zero = stablehlo.constant dense<0> : tensor<i64>
  %one = stablehlo.constant dense<1> : tensor<i64>
  %four = stablehlo.constant dense<4> : tensor<i64>
  %five = stablehlo.constant dense<5> : tensor<i64>
  %none = stablehlo.constant dense<0.0> : tensor<1x3xf32>
  // CHECK: dynamic_update_slice
  %p:2 = stablehlo.while(%i = %zero, %a = %d) : tensor<i64>, tensor<4x3xf32>
  cond {
    %c = stablehlo.compare LT, %i, %four, SIGNED : (tensor<i64>, tensor<i64>) -> tensor<i1>
    stablehlo.return %c : tensor<i1>
  } do {
    %cleared = stablehlo.dynamic_update_slice %a, %none, %i, %zero : (tensor<4x3xf32>, tensor<1x3xf32>, tensor<i64>, tensor<i64>) -> tensor<4x3xf32>
    %up = stablehlo.add %i, %one : tensor<i64>
    stablehlo.return %up, %cleared : tensor<i64>, tensor<4x3xf32>
  }
  // CHECK: dynamic_update_slice
  %q:3 = stablehlo.while(%i = %zero, %a = %d, %s = %none) : tensor<i64>, tensor<4x3xf32>, tensor<1x3xf32>
  cond {
    %c = stablehlo.compare LT, %i, %five, SIGNED : (tensor<i64>, tensor<i64>) -> tensor<i1>
    stablehlo.return %c : tensor<i1>
  } do {
    %row = stablehlo.dynamic_slice %a, %i, %zero, sizes = [1, 3] : (tensor<4x3xf32>, tensor<i64>, tensor<i64>) -> tensor<1x3xf32>
    %cleared = stablehlo.dynamic_update_slice %a, %none, %i, %zero : (tensor<4x3xf32>, tensor<1x3xf32>, tensor<i64>, tensor<i64>) -> tensor<4x3xf32>
    %t = stablehlo.add %s, %row : tensor<1x3xf32>
    %up = stablehlo.add %i, %one : tensor<i64>
    stablehlo.return %up, %cleared, %t : tensor<i64>, tensor<4x3xf32>, tensor<1x3xf32>
  }
  // CHECK: dynamic_update_slice
  %r:4 = stablehlo.while(%i = %zero, %j = %one, %a = %d, %s = %none) : tensor<i64>, tensor<i64>, tensor<4x3xf32>, tensor<1x3xf32>
  cond {
    %three = stablehlo.constant dense<3> : tensor<i64>
    %c = stablehlo.compare LT, %i, %three, SIGNED : (tensor<i64>, tensor<i64>) -> tensor<i1>
    stablehlo.return %c : tensor<i1>
  } do {
    %row = stablehlo.dynamic_slice %a, %i, %zero, sizes = [1, 3] : (tensor<4x3xf32>, tensor<i64>, tensor<i64>) -> tensor<1x3xf32>
    %cleared = stablehlo.dynamic_update_slice %a, %none, %j, %zero : (tensor<4x3xf32>, tensor<1x3xf32>, tensor<i64>, tensor<i64>) -> tensor<4x3xf32>
    %t = stablehlo.add %s, %row : tensor<1x3xf32>
    %up = stablehlo.add %i, %one : tensor<i64>
    %next = stablehlo.add %j, %one : tensor<i64>
    stablehlo.return %up, %next, %cleared, %t : tensor<i64>, tensor<i64>, tensor<4x3xf32>, tensor<1x3xf32>
  }
  // CHECK: dynamic_update_slice
  // CHECK: dynamic_update_slice
  %s:3 = stablehlo.while(%i = %zero, %a = %d, %b = %d) : tensor<i64>, tensor<4x3xf32>, tensor<4x3xf32>
  cond {
    %c = stablehlo.compare LT, %i, %four, SIGNED : (tensor<i64>, tensor<i64>) -> tensor<i1>
    stablehlo.return %c : tensor<i1>
  } do {
    %ones = stablehlo.constant dense<1.0> : tensor<1x3xf32>
    %other = stablehlo.dynamic_update_slice %a, %ones, %i, %zero : (tensor<4x3xf32>, tensor<1x3xf32>, tensor<i64>, tensor<i64>) -> tensor<4x3xf32>
    %cleared = stablehlo.dynamic_update_slice %a, %none, %i, %zero : (tensor<4x3xf32>, tensor<1x3xf32>, tensor<i64>, tensor<i64>) -> tensor<4x3xf32>
    %up = stablehlo.add %i, %one : tensor<i64>
    stablehlo.return %up, %cleared, %other : tensor<i64>, tensor<4x3xf32>, tensor<4x3xf32>
  }
  return %p#1, %q#2, %r#3, %s#2 : tensor<4x3xf32>, tensor<1x3xf32>, tensor<1x3xf32>, tensor<4x3xf32>
}
