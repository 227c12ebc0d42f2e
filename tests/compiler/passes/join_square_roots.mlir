// RUN: metagrad-opt %s --pass=join-square-roots | filecheck %s

// What Enzyme makes of an optimiser's square root: the quotient alone remains.
// CHECK-LABEL: func.func @two_branches(
func.func @two_branches(%x: tensor<4xf32>, %d: tensor<4xf32>) -> tensor<4xf32> {
  %zero = stablehlo.constant dense<0.0> : tensor<4xf32>
  %scalar = stablehlo.constant dense<0.0> : tensor<f32>
  %one = stablehlo.constant dense<1.0> : tensor<4xf32>
  %two = stablehlo.constant dense<2.0> : tensor<4xf32>
  %again = stablehlo.broadcast_in_dim %scalar, dims = [] : (tensor<f32>) -> tensor<4xf32>
  %z = stablehlo.compare EQ, %x, %zero : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xi1>
  %y = stablehlo.compare EQ, %x, %again, FLOAT : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xi1>
  %n = stablehlo.negate %d : tensor<4xf32>
  %m = stablehlo.negate %n : tensor<4xf32>
  %s = stablehlo.sqrt %x : tensor<4xf32>
  // CHECK: [[T:%.+]] = stablehlo.multiply {{%.+}}, {{%.+}} : tensor<4xf32>
  %t = stablehlo.multiply %two, %s : tensor<4xf32>
  // CHECK: [[Q:%.+]] = stablehlo.divide %arg1, [[T]] : tensor<4xf32>
  %q = stablehlo.divide %d, %t : tensor<4xf32>
  %a = stablehlo.select %z, %zero, %q : tensor<4xi1>, tensor<4xf32>
  %g = stablehlo.select %y, %x, %one : tensor<4xi1>, tensor<4xf32>
  %p = stablehlo.divide %m, %g : tensor<4xf32>
  %b = stablehlo.select %y, %p, %zero : tensor<4xi1>, tensor<4xf32>
  %r = stablehlo.add %a, %b : tensor<4xf32>
  // CHECK: return [[Q]]
  return %r : tensor<4xf32>
}

// Another numerator, a root of something else, a branch that is not guarded, another constant.
// CHECK-LABEL: func.func @not_joined(
func.func @not_joined(%x: tensor<f32>, %d: tensor<f32>, %e: tensor<f32>) -> (tensor<f32>, tensor<f32>, tensor<f32>, tensor<f32>) {
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %one = stablehlo.constant dense<1.0> : tensor<f32>
  %two = stablehlo.constant dense<2.0> : tensor<f32>
  %z = stablehlo.compare EQ, %x, %zero : (tensor<f32>, tensor<f32>) -> tensor<i1>
  %s = stablehlo.sqrt %x : tensor<f32>
  %t = stablehlo.multiply %two, %s : tensor<f32>
  %q = stablehlo.divide %d, %t : tensor<f32>
  %a = stablehlo.select %z, %zero, %q : tensor<i1>, tensor<f32>
  %g = stablehlo.select %z, %x, %one : tensor<i1>, tensor<f32>
  %p = stablehlo.divide %d, %g : tensor<f32>
  %b = stablehlo.select %z, %p, %zero : tensor<i1>, tensor<f32>
  %other = stablehlo.divide %e, %g : tensor<f32>
  %c = stablehlo.select %z, %other, %zero : tensor<i1>, tensor<f32>
  // CHECK: [[R:%.+]] = stablehlo.add
  %r0 = stablehlo.add %a, %c : tensor<f32>
  %root = stablehlo.sqrt %e : tensor<f32>
  %twice = stablehlo.multiply %two, %root : tensor<f32>
  %quotient = stablehlo.divide %d, %twice : tensor<f32>
  %f = stablehlo.select %z, %zero, %quotient : tensor<i1>, tensor<f32>
  // CHECK: [[S:%.+]] = stablehlo.add
  %r1 = stablehlo.add %f, %b : tensor<f32>
  %bare = stablehlo.divide %d, %e : tensor<f32>
  %h = stablehlo.select %z, %bare, %zero : tensor<i1>, tensor<f32>
  // CHECK: [[T:%.+]] = stablehlo.add
  %r2 = stablehlo.add %a, %h : tensor<f32>
  %k = stablehlo.select %z, %one, %q : tensor<i1>, tensor<f32>
  // CHECK: [[U:%.+]] = stablehlo.add
  %r3 = stablehlo.add %k, %b : tensor<f32>
  // CHECK: return [[R]], [[S]], [[T]], [[U]]
  return %r0, %r1, %r2, %r3 : tensor<f32>, tensor<f32>, tensor<f32>, tensor<f32>
}

// One branch, or its guard, tests something else than equality with zero: they stay.
// CHECK-LABEL: func.func @another_test(
// CHECK-COUNT-4: stablehlo.select
func.func @another_test(%x: tensor<f32>, %d: tensor<f32>) -> (tensor<f32>, tensor<f32>) {
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %one = stablehlo.constant dense<1.0> : tensor<f32>
  %two = stablehlo.constant dense<2.0> : tensor<f32>
  %z = stablehlo.compare EQ, %x, %zero : (tensor<f32>, tensor<f32>) -> tensor<i1>
  %l = stablehlo.compare LT, %x, %zero : (tensor<f32>, tensor<f32>) -> tensor<i1>
  %s = stablehlo.sqrt %x : tensor<f32>
  %t = stablehlo.multiply %two, %s : tensor<f32>
  %q = stablehlo.divide %d, %t : tensor<f32>
  %a = stablehlo.select %z, %zero, %q : tensor<i1>, tensor<f32>
  %g = stablehlo.select %l, %x, %one : tensor<i1>, tensor<f32>
  %p = stablehlo.divide %d, %g : tensor<f32>
  %b = stablehlo.select %l, %p, %zero : tensor<i1>, tensor<f32>
  %r = stablehlo.add %a, %b : tensor<f32>
  %c = stablehlo.select %z, %p, %zero : tensor<i1>, tensor<f32>
  %u = stablehlo.add %a, %c : tensor<f32>
  return %r, %u : tensor<f32>, tensor<f32>
}
