// RUN: metagrad-opt %s --pass=counters-first | filecheck %s

// What a scan only reads comes before its counter when JAX lowers it. Both exchange their places:
// among the operands, in both regions, in what the body returns, and in the results.

func.func @loss(%w: tensor<4xf32>, %x: tensor<f32>) -> (tensor<f32>, tensor<4xf32>, tensor<i64>) {
  %zero = stablehlo.constant dense<0> : tensor<i64>
  %turns = stablehlo.constant dense<4> : tensor<i64>
  %one = stablehlo.constant dense<1> : tensor<i64>
  %sines = stablehlo.sine %w : tensor<4xf32>
  %r:3 = stablehlo.while(%read = %sines, %i = %zero, %h = %x) : tensor<4xf32>, tensor<i64>, tensor<f32>
  cond {
    %c = stablehlo.compare LT, %i, %turns, SIGNED : (tensor<i64>, tensor<i64>) -> tensor<i1>
    stablehlo.return %c : tensor<i1>
  } do {
    %s = stablehlo.dynamic_slice %read, %i, sizes = [1] : (tensor<4xf32>, tensor<i64>) -> tensor<1xf32>
    %t = stablehlo.reshape %s : (tensor<1xf32>) -> tensor<f32>
    %n = stablehlo.multiply %h, %t : tensor<f32>
    %j = stablehlo.add %i, %one : tensor<i64>
    stablehlo.return %read, %j, %n : tensor<4xf32>, tensor<i64>, tensor<f32>
  }
  return %r#2, %r#0, %r#1 : tensor<f32>, tensor<4xf32>, tensor<i64>
}

// CHECK-LABEL: func.func @loss(
// CHECK:         [[SINES:%.+]] = stablehlo.sine %arg0
// CHECK-NEXT:    [[R:%.+]]:3 = stablehlo.while([[I:%.+]] = {{%.+}}, [[READ:%.+]] = [[SINES]], [[H:%.+]] = %arg1) : tensor<i64>, tensor<4xf32>, tensor<f32>
// CHECK-NEXT:    cond {
// CHECK-NEXT:      stablehlo.compare LT, [[I]], {{%.+}}, SIGNED : (tensor<i64>, tensor<i64>) -> tensor<i1>
// CHECK:         } do {
// CHECK-NEXT:      stablehlo.dynamic_slice [[READ]], [[I]], sizes = [1] : (tensor<4xf32>, tensor<i64>) -> tensor<1xf32>
// CHECK:           [[N:%.+]] = stablehlo.multiply [[H]],
// CHECK-NEXT:      [[J:%.+]] = stablehlo.add [[I]], {{%.+}} : tensor<i64>
// CHECK-NEXT:      stablehlo.return [[J]], [[READ]], [[N]] : tensor<i64>, tensor<4xf32>, tensor<f32>
// CHECK-NEXT:    }
// CHECK-NEXT:    return [[R]]#2, [[R]]#1, [[R]]#0 : tensor<f32>, tensor<4xf32>, tensor<i64>

// A counter may come last. A loop whose counter is first already is left alone.

func.func @last_and_first(%x: tensor<f32>) -> tensor<f32> {
  %zero = stablehlo.constant dense<0> : tensor<i64>
  %turns = stablehlo.constant dense<4> : tensor<i64>
  %one = stablehlo.constant dense<1> : tensor<i64>
  %r:2 = stablehlo.while(%h = %x, %i = %zero) : tensor<f32>, tensor<i64>
  cond {
    %c = stablehlo.compare LT, %i, %turns, SIGNED : (tensor<i64>, tensor<i64>) -> tensor<i1>
    stablehlo.return %c : tensor<i1>
  } do {
    %n = stablehlo.sine %h : tensor<f32>
    %j = stablehlo.add %i, %one : tensor<i64>
    stablehlo.return %n, %j : tensor<f32>, tensor<i64>
  }
  %q:2 = stablehlo.while(%i = %zero, %h = %r#0) : tensor<i64>, tensor<f32>
  cond {
    %c = stablehlo.compare LT, %i, %turns, SIGNED : (tensor<i64>, tensor<i64>) -> tensor<i1>
    stablehlo.return %c : tensor<i1>
  } do {
    %n = stablehlo.sine %h : tensor<f32>
    %j = stablehlo.add %i, %one : tensor<i64>
    stablehlo.return %j, %n : tensor<i64>, tensor<f32>
  }
  return %q#1 : tensor<f32>
}

// CHECK-LABEL: func.func @last_and_first(
// CHECK:         [[R:%.+]]:2 = stablehlo.while({{%.+}} = {{%.+}}, {{%.+}} = %arg0) : tensor<i64>, tensor<f32>
// CHECK:         [[Q:%.+]]:2 = stablehlo.while({{%.+}} = {{%.+}}, {{%.+}} = [[R]]#1) : tensor<i64>, tensor<f32>
// CHECK:         return [[Q]]#1
