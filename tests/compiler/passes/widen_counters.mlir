// RUN: metagrad-opt %s --pass=widen-counters --split-input-file | filecheck %s

// The counter becomes 64 bits wide, and so do the constants that it starts from, is stepped by and
// is compared with. What computes with the counter gets it in 32 bits as before: in the body, after
// the increment, and behind the loop.

func.func @loss(%w: tensor<5xf32>) -> (tensor<f32>, tensor<i32>) {
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %turns = stablehlo.constant dense<4> : tensor<i32>
  %one = stablehlo.constant dense<1> : tensor<i32>
  %start = stablehlo.constant dense<0.0> : tensor<f32>
  %r:3 = stablehlo.while(%i = %zero, %h = %start, %last = %zero) : tensor<i32>, tensor<f32>, tensor<i32>
  cond {
    %c = stablehlo.compare LT, %i, %turns, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %c : tensor<i1>
  } do {
    %s = stablehlo.dynamic_slice %w, %i, sizes = [1] : (tensor<5xf32>, tensor<i32>) -> tensor<1xf32>
    %t = stablehlo.reshape %s : (tensor<1xf32>) -> tensor<f32>
    %j = stablehlo.add %i, %one : tensor<i32>
    %f = stablehlo.convert %j : (tensor<i32>) -> tensor<f32>
    %u = stablehlo.multiply %t, %f : tensor<f32>
    %n = stablehlo.add %h, %u : tensor<f32>
    stablehlo.return %j, %n, %j : tensor<i32>, tensor<f32>, tensor<i32>
  }
  return %r#1, %r#0 : tensor<f32>, tensor<i32>
}

// CHECK-LABEL: func.func @loss(
// CHECK:         [[ZERO:%.+]] = stablehlo.constant dense<0> : tensor<i32>
// CHECK:         [[START:%.+]] = stablehlo.constant dense<0> : tensor<i64>
// CHECK-NEXT:    [[R:%.+]]:3 = stablehlo.while([[I:%.+]] = [[START]], [[H:%.+]] = {{%.+}}, [[LAST:%.+]] = [[ZERO]]) : tensor<i64>, tensor<f32>, tensor<i32>
// CHECK-NEXT:    cond {
// CHECK-NEXT:      [[BOUND:%.+]] = stablehlo.constant dense<4> : tensor<i64>
// CHECK-NEXT:      stablehlo.compare LT, [[I]], [[BOUND]], SIGNED : (tensor<i64>, tensor<i64>) -> tensor<i1>
// CHECK:         } do {
// CHECK-NEXT:      [[NARROW:%.+]] = stablehlo.convert [[I]] : (tensor<i64>) -> tensor<i32>
// CHECK-NEXT:      stablehlo.dynamic_slice %arg0, [[NARROW]]
// CHECK:           [[STEP:%.+]] = stablehlo.constant dense<1> : tensor<i64>
// CHECK-NEXT:      [[J:%.+]] = stablehlo.add [[I]], [[STEP]] : tensor<i64>
// CHECK-NEXT:      [[NARROW_J:%.+]] = stablehlo.convert [[J]] : (tensor<i64>) -> tensor<i32>
// CHECK-NEXT:      stablehlo.convert [[NARROW_J]] : (tensor<i32>) -> tensor<f32>
// CHECK:           stablehlo.return [[J]], {{%.+}}, [[NARROW_J]] : tensor<i64>, tensor<f32>, tensor<i32>
// CHECK:         [[AFTER:%.+]] = stablehlo.convert [[R]]#0 : (tensor<i64>) -> tensor<i32>
// CHECK-NEXT:    return [[R]]#1, [[AFTER]] : tensor<f32>, tensor<i32>

// -----

// Nested loops. The inner one reads both counters, and starts at the outer one's.

func.func @nested(%w: tensor<4x4xf32>) -> tensor<f32> {
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %turns = stablehlo.constant dense<4> : tensor<i32>
  %one = stablehlo.constant dense<1> : tensor<i32>
  %start = stablehlo.constant dense<0.0> : tensor<f32>
  %r:2 = stablehlo.while(%i = %zero, %h = %start) : tensor<i32>, tensor<f32>
  cond {
    %c = stablehlo.compare LT, %i, %turns, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %c : tensor<i1>
  } do {
    %q:2 = stablehlo.while(%k = %i, %g = %h) : tensor<i32>, tensor<f32>
    cond {
      %c = stablehlo.compare LT, %k, %turns, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
      stablehlo.return %c : tensor<i1>
    } do {
      %s = stablehlo.dynamic_slice %w, %i, %k, sizes = [1, 1] : (tensor<4x4xf32>, tensor<i32>, tensor<i32>) -> tensor<1x1xf32>
      %t = stablehlo.reshape %s : (tensor<1x1xf32>) -> tensor<f32>
      %n = stablehlo.add %g, %t : tensor<f32>
      %l = stablehlo.add %one, %k : tensor<i32>
      stablehlo.return %l, %n : tensor<i32>, tensor<f32>
    }
    %j = stablehlo.add %i, %one : tensor<i32>
    stablehlo.return %j, %q#1 : tensor<i32>, tensor<f32>
  }
  return %r#1 : tensor<f32>
}

// CHECK-LABEL: func.func @nested(
// CHECK:         stablehlo.while([[I:%.+]] = {{%.+}}, [[H:%.+]] = {{%.+}}) : tensor<i64>, tensor<f32>
// CHECK:         } do {
// CHECK-NEXT:      [[NARROW_I:%.+]] = stablehlo.convert [[I]] : (tensor<i64>) -> tensor<i32>
// CHECK-NEXT:      [[FROM:%.+]] = stablehlo.convert [[NARROW_I]] : (tensor<i32>) -> tensor<i64>
// CHECK-NEXT:      stablehlo.while([[K:%.+]] = [[FROM]], {{%.+}} = [[H]]) : tensor<i64>, tensor<f32>
// CHECK:           } do {
// CHECK-NEXT:        [[NARROW_K:%.+]] = stablehlo.convert [[K]] : (tensor<i64>) -> tensor<i32>
// CHECK-NEXT:        stablehlo.dynamic_slice %arg0, [[NARROW_I]], [[NARROW_K]]
// CHECK:             stablehlo.add {{%.+}}, [[K]] : tensor<i64>

// -----

// A counter of 64 bits is wide enough; the integer beside it is not a counter, since the condition
// does not test it.

func.func @wide(%x: tensor<i32>) -> tensor<i32> {
  %zero = stablehlo.constant dense<0> : tensor<i64>
  %turns = stablehlo.constant dense<4> : tensor<i64>
  %one = stablehlo.constant dense<1> : tensor<i64>
  %two = stablehlo.constant dense<2> : tensor<i32>
  %r:2 = stablehlo.while(%i = %zero, %n = %x) : tensor<i64>, tensor<i32>
  cond {
    %c = stablehlo.compare LT, %i, %turns, SIGNED : (tensor<i64>, tensor<i64>) -> tensor<i1>
    stablehlo.return %c : tensor<i1>
  } do {
    %j = stablehlo.add %i, %one : tensor<i64>
    %m = stablehlo.add %n, %two : tensor<i32>
    stablehlo.return %j, %m : tensor<i64>, tensor<i32>
  }
  return %r#1 : tensor<i32>
}

// CHECK-LABEL: func.func @wide(
// CHECK-NOT:     stablehlo.convert
// CHECK:         return

// -----

// A loop that stops on something else than a count has no counter (here it halves a number until
// that is small).

func.func @halving(%x: tensor<i32>) -> tensor<i32> {
  %two = stablehlo.constant dense<2> : tensor<i32>
  %r = stablehlo.while(%n = %x) : tensor<i32>
  cond {
    %c = stablehlo.compare GT, %n, %two, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %c : tensor<i1>
  } do {
    %m = stablehlo.divide %n, %two : tensor<i32>
    stablehlo.return %m : tensor<i32>
  }
  return %r : tensor<i32>
}

// CHECK-LABEL: func.func @halving(
// CHECK-NOT:     stablehlo.convert
// CHECK:         return
