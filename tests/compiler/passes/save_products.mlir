// RUN: metagrad-opt %s --pass=save-products | filecheck %s

// A recurrence h' = tanh(h w + b), and the way back through it. The first loop saves h; the second
// would compute tanh(h w + b) again.
// CHECK-LABEL: func.func @recurrence(
func.func @recurrence(%h: tensor<2x3xf32>, %w: tensor<3x3xf32>, %b: tensor<3xf32>, %d: tensor<2x3xf32>) -> tensor<2x3xf32> attributes {metagrad.by_enzyme} {
  %zero = stablehlo.constant dense<0> : tensor<i64>
  %one = stablehlo.constant dense<1> : tensor<i64>
  %three = stablehlo.constant dense<3> : tensor<i64>
  %four = stablehlo.constant dense<4> : tensor<i64>
  %none = stablehlo.constant dense<0.0> : tensor<4x2x3xf32>
  // CHECK:  [[F:%.+]]:4 = stablehlo.while(
  // CHECK:    [[P:%.+]] = stablehlo.dot_general
  // CHECK:    [[A:%.+]] = stablehlo.add [[P]],
  // CHECK:    [[S:%.+]] = stablehlo.tanh [[A]]
  // CHECK:    [[R:%.+]] = stablehlo.reshape [[S]] : (tensor<2x3xf32>) -> tensor<1x2x3xf32>
  // CHECK:    dynamic_update_slice {{%.+}}, [[R]],
  %f:3 = stablehlo.while(%i = %zero, %x = %h, %hs = %none) : tensor<i64>, tensor<2x3xf32>, tensor<4x2x3xf32>
  cond {
    %c = stablehlo.compare LT, %i, %four, SIGNED : (tensor<i64>, tensor<i64>) -> tensor<i1>
    stablehlo.return %c : tensor<i1>
  } do {
    %row = stablehlo.reshape %x : (tensor<2x3xf32>) -> tensor<1x2x3xf32>
    %saved = stablehlo.dynamic_update_slice %hs, %row, %i, %zero, %zero : (tensor<4x2x3xf32>, tensor<1x2x3xf32>, tensor<i64>, tensor<i64>, tensor<i64>) -> tensor<4x2x3xf32>
    %p = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<2x3xf32>, tensor<3x3xf32>) -> tensor<2x3xf32>
    %bias = stablehlo.broadcast_in_dim %b, dims = [1] : (tensor<3xf32>) -> tensor<2x3xf32>
    %s = stablehlo.add %p, %bias : tensor<2x3xf32>
    %y = stablehlo.tanh %s : tensor<2x3xf32>
    %up = stablehlo.add %i, %one : tensor<i64>
    stablehlo.return %up, %y, %saved : tensor<i64>, tensor<2x3xf32>, tensor<4x2x3xf32>
  }
  // CHECK:  stablehlo.while(
  // CHECK:    [[G:%.+]] = stablehlo.dynamic_slice [[F]]#3,
  // CHECK:    [[T:%.+]] = stablehlo.reshape [[G]] : (tensor<1x2x3xf32>) -> tensor<2x3xf32>
  // CHECK:    stablehlo.multiply [[T]], [[T]]
  // CHECK:    contracting_dims = [1] x [1]
  // CHECK-NOT: contracting_dims = [1] x [0]
  %g:3 = stablehlo.while(%i = %zero, %j = %three, %v = %d) : tensor<i64>, tensor<i64>, tensor<2x3xf32>
  cond {
    %c = stablehlo.compare LT, %i, %four, SIGNED : (tensor<i64>, tensor<i64>) -> tensor<i1>
    stablehlo.return %c : tensor<i1>
  } do {
    %row = stablehlo.dynamic_slice %f#2, %j, %zero, %zero, sizes = [1, 2, 3] : (tensor<4x2x3xf32>, tensor<i64>, tensor<i64>, tensor<i64>) -> tensor<1x2x3xf32>
    %x = stablehlo.reshape %row : (tensor<1x2x3xf32>) -> tensor<2x3xf32>
    %p = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<2x3xf32>, tensor<3x3xf32>) -> tensor<2x3xf32>
    %bias = stablehlo.broadcast_in_dim %b, dims = [1] : (tensor<3xf32>) -> tensor<2x3xf32>
    %s = stablehlo.add %p, %bias : tensor<2x3xf32>
    %y = stablehlo.tanh %s : tensor<2x3xf32>
    %yy = stablehlo.multiply %y, %y : tensor<2x3xf32>
    %u = stablehlo.multiply %v, %yy : tensor<2x3xf32>
    %n = stablehlo.dot_general %u, %w, contracting_dims = [1] x [1] : (tensor<2x3xf32>, tensor<3x3xf32>) -> tensor<2x3xf32>
    %up = stablehlo.add %i, %one : tensor<i64>
    %down = stablehlo.subtract %j, %one : tensor<i64>
    stablehlo.return %up, %down, %n : tensor<i64>, tensor<i64>, tensor<2x3xf32>
  }
  return %g#2 : tensor<2x3xf32>
}

// Two products, the second in a wider sum with the first. The sum is saved, and then the second
// product is not needed.
// CHECK-LABEL: func.func @wider_sum(
// CHECK:         [[F:%.+]]:4 = stablehlo.while(
// CHECK:         stablehlo.while(
// CHECK-NOT:     dot_general
// CHECK:         return
func.func @wider_sum(%h: tensor<2x3xf32>, %w: tensor<3x3xf32>, %u: tensor<3x1xf32>, %d: tensor<2x3xf32>) -> tensor<2x3xf32> attributes {metagrad.by_enzyme} {
  %zero = stablehlo.constant dense<0> : tensor<i64>
  %one = stablehlo.constant dense<1> : tensor<i64>
  %four = stablehlo.constant dense<4> : tensor<i64>
  %none = stablehlo.constant dense<0.0> : tensor<4x2x3xf32>
  %f:3 = stablehlo.while(%i = %zero, %x = %h, %hs = %none) : tensor<i64>, tensor<2x3xf32>, tensor<4x2x3xf32>
  cond {
    %c = stablehlo.compare LT, %i, %four, SIGNED : (tensor<i64>, tensor<i64>) -> tensor<i1>
    stablehlo.return %c : tensor<i1>
  } do {
    %row = stablehlo.reshape %x : (tensor<2x3xf32>) -> tensor<1x2x3xf32>
    %saved = stablehlo.dynamic_update_slice %hs, %row, %i, %zero, %zero : (tensor<4x2x3xf32>, tensor<1x2x3xf32>, tensor<i64>, tensor<i64>, tensor<i64>) -> tensor<4x2x3xf32>
    %p = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<2x3xf32>, tensor<3x3xf32>) -> tensor<2x3xf32>
    %q = stablehlo.dot_general %x, %u, contracting_dims = [1] x [0] : (tensor<2x3xf32>, tensor<3x1xf32>) -> tensor<2x1xf32>
    %wide = stablehlo.broadcast_in_dim %q, dims = [0, 1] : (tensor<2x1xf32>) -> tensor<2x3xf32>
    %s = stablehlo.add %p, %wide : tensor<2x3xf32>
    %up = stablehlo.add %i, %one : tensor<i64>
    stablehlo.return %up, %s, %saved : tensor<i64>, tensor<2x3xf32>, tensor<4x2x3xf32>
  }
  %g:2 = stablehlo.while(%i = %zero, %v = %d) : tensor<i64>, tensor<2x3xf32>
  cond {
    %c = stablehlo.compare LT, %i, %four, SIGNED : (tensor<i64>, tensor<i64>) -> tensor<i1>
    stablehlo.return %c : tensor<i1>
  } do {
    %row = stablehlo.dynamic_slice %f#2, %i, %zero, %zero, sizes = [1, 2, 3] : (tensor<4x2x3xf32>, tensor<i64>, tensor<i64>, tensor<i64>) -> tensor<1x2x3xf32>
    %x = stablehlo.reshape %row : (tensor<1x2x3xf32>) -> tensor<2x3xf32>
    %p = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<2x3xf32>, tensor<3x3xf32>) -> tensor<2x3xf32>
    %q = stablehlo.dot_general %x, %u, contracting_dims = [1] x [0] : (tensor<2x3xf32>, tensor<3x1xf32>) -> tensor<2x1xf32>
    %wide = stablehlo.broadcast_in_dim %q, dims = [0, 1] : (tensor<2x1xf32>) -> tensor<2x3xf32>
    %s = stablehlo.add %p, %wide : tensor<2x3xf32>
    %n = stablehlo.multiply %v, %s : tensor<2x3xf32>
    %up = stablehlo.add %i, %one : tensor<i64>
    stablehlo.return %up, %n : tensor<i64>, tensor<2x3xf32>
  }
  return %g#1 : tensor<2x3xf32>
}

// Left alone: the product has another weight; row 1 is the first that is read, so row 4 would be
// clamped to 3 and the product at turn 4 is not known.
// CHECK-LABEL: func.func @other_products(
// CHECK: contracting_dims = [1] x [0]
// CHECK: contracting_dims = [1] x [0]
// CHECK: contracting_dims = [1] x [0]
// CHECK: contracting_dims = [1] x [0]
func.func @other_products(%h: tensor<2x3xf32>, %w: tensor<3x3xf32>, %o: tensor<3x3xf32>) -> (tensor<2x3xf32>, tensor<2x3xf32>) attributes {metagrad.by_enzyme} {
  %zero = stablehlo.constant dense<0> : tensor<i64>
  %one = stablehlo.constant dense<1> : tensor<i64>
  %four = stablehlo.constant dense<4> : tensor<i64>
  %none = stablehlo.constant dense<0.0> : tensor<4x2x3xf32>
  %f:3 = stablehlo.while(%i = %zero, %x = %h, %hs = %none) : tensor<i64>, tensor<2x3xf32>, tensor<4x2x3xf32>
  cond {
    %c = stablehlo.compare LT, %i, %four, SIGNED : (tensor<i64>, tensor<i64>) -> tensor<i1>
    stablehlo.return %c : tensor<i1>
  } do {
    %row = stablehlo.reshape %x : (tensor<2x3xf32>) -> tensor<1x2x3xf32>
    %saved = stablehlo.dynamic_update_slice %hs, %row, %i, %zero, %zero : (tensor<4x2x3xf32>, tensor<1x2x3xf32>, tensor<i64>, tensor<i64>, tensor<i64>) -> tensor<4x2x3xf32>
    %y = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<2x3xf32>, tensor<3x3xf32>) -> tensor<2x3xf32>
    %up = stablehlo.add %i, %one : tensor<i64>
    stablehlo.return %up, %y, %saved : tensor<i64>, tensor<2x3xf32>, tensor<4x2x3xf32>
  }
  %g:2 = stablehlo.while(%i = %zero, %v = %h) : tensor<i64>, tensor<2x3xf32>
  cond {
    %c = stablehlo.compare LT, %i, %four, SIGNED : (tensor<i64>, tensor<i64>) -> tensor<i1>
    stablehlo.return %c : tensor<i1>
  } do {
    %row = stablehlo.dynamic_slice %f#2, %i, %zero, %zero, sizes = [1, 2, 3] : (tensor<4x2x3xf32>, tensor<i64>, tensor<i64>, tensor<i64>) -> tensor<1x2x3xf32>
    %x = stablehlo.reshape %row : (tensor<1x2x3xf32>) -> tensor<2x3xf32>
    %p = stablehlo.dot_general %x, %o, contracting_dims = [1] x [0] : (tensor<2x3xf32>, tensor<3x3xf32>) -> tensor<2x3xf32>
    %q = stablehlo.dot_general %v, %w, contracting_dims = [1] x [0] : (tensor<2x3xf32>, tensor<3x3xf32>) -> tensor<2x3xf32>
    %n = stablehlo.add %p, %q : tensor<2x3xf32>
    %up = stablehlo.add %i, %one : tensor<i64>
    stablehlo.return %up, %n : tensor<i64>, tensor<2x3xf32>
  }
  %k:2 = stablehlo.while(%i = %one, %v = %h) : tensor<i64>, tensor<2x3xf32>
  cond {
    %five = stablehlo.constant dense<5> : tensor<i64>
    %c = stablehlo.compare LT, %i, %five, SIGNED : (tensor<i64>, tensor<i64>) -> tensor<i1>
    stablehlo.return %c : tensor<i1>
  } do {
    %row = stablehlo.dynamic_slice %f#2, %i, %zero, %zero, sizes = [1, 2, 3] : (tensor<4x2x3xf32>, tensor<i64>, tensor<i64>, tensor<i64>) -> tensor<1x2x3xf32>
    %x = stablehlo.reshape %row : (tensor<1x2x3xf32>) -> tensor<2x3xf32>
    %p = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<2x3xf32>, tensor<3x3xf32>) -> tensor<2x3xf32>
    %n = stablehlo.add %p, %v : tensor<2x3xf32>
    %up = stablehlo.add %i, %one : tensor<i64>
    stablehlo.return %up, %n : tensor<i64>, tensor<2x3xf32>
  }
  return %g#1, %k#1 : tensor<2x3xf32>, tensor<2x3xf32>
}

// What JAX made is as the user wants it.
// CHECK-LABEL: func.func @checkpointed(
// CHECK:         contracting_dims = [1] x [0]
// CHECK:         contracting_dims = [1] x [0]
func.func @checkpointed(%h: tensor<2x3xf32>, %w: tensor<3x3xf32>) -> tensor<2x3xf32> {
  %zero = stablehlo.constant dense<0> : tensor<i64>
  %one = stablehlo.constant dense<1> : tensor<i64>
  %four = stablehlo.constant dense<4> : tensor<i64>
  %none = stablehlo.constant dense<0.0> : tensor<4x2x3xf32>
  %f:3 = stablehlo.while(%i = %zero, %x = %h, %hs = %none) : tensor<i64>, tensor<2x3xf32>, tensor<4x2x3xf32>
  cond {
    %c = stablehlo.compare LT, %i, %four, SIGNED : (tensor<i64>, tensor<i64>) -> tensor<i1>
    stablehlo.return %c : tensor<i1>
  } do {
    %row = stablehlo.reshape %x : (tensor<2x3xf32>) -> tensor<1x2x3xf32>
    %saved = stablehlo.dynamic_update_slice %hs, %row, %i, %zero, %zero : (tensor<4x2x3xf32>, tensor<1x2x3xf32>, tensor<i64>, tensor<i64>, tensor<i64>) -> tensor<4x2x3xf32>
    %y = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<2x3xf32>, tensor<3x3xf32>) -> tensor<2x3xf32>
    %up = stablehlo.add %i, %one : tensor<i64>
    stablehlo.return %up, %y, %saved : tensor<i64>, tensor<2x3xf32>, tensor<4x2x3xf32>
  }
  %g:2 = stablehlo.while(%i = %zero, %v = %h) : tensor<i64>, tensor<2x3xf32>
  cond {
    %c = stablehlo.compare LT, %i, %four, SIGNED : (tensor<i64>, tensor<i64>) -> tensor<i1>
    stablehlo.return %c : tensor<i1>
  } do {
    %row = stablehlo.dynamic_slice %f#2, %i, %zero, %zero, sizes = [1, 2, 3] : (tensor<4x2x3xf32>, tensor<i64>, tensor<i64>, tensor<i64>) -> tensor<1x2x3xf32>
    %x = stablehlo.reshape %row : (tensor<1x2x3xf32>) -> tensor<2x3xf32>
    %p = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<2x3xf32>, tensor<3x3xf32>) -> tensor<2x3xf32>
    %n = stablehlo.add %p, %v : tensor<2x3xf32>
    %up = stablehlo.add %i, %one : tensor<i64>
    stablehlo.return %up, %n : tensor<i64>, tensor<2x3xf32>
  }
  return %g#1 : tensor<2x3xf32>
}
