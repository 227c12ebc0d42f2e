// RUN: metagrad-opt %s --pass=narrow-products | filecheck %s

// CHECK-LABEL: func.func @as_written(
// CHECK-NEXT:    [[P:%.+]] = stablehlo.dot_general %arg0, %arg1, contracting_dims = [1] x [0] : (tensor<4x8xbf16>, tensor<8x2xbf16>) -> tensor<4x2xf32>
// CHECK-NEXT:    return [[P]]
func.func @as_written(%x: tensor<4x8xbf16>, %y: tensor<8x2xbf16>) -> tensor<4x2xf32> {
  %a = stablehlo.convert %x {metagrad.widened} : (tensor<4x8xbf16>) -> tensor<4x8xf32>
  %b = stablehlo.convert %y {metagrad.widened} : (tensor<8x2xbf16>) -> tensor<8x2xf32>
  %p = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0] : (tensor<4x8xf32>, tensor<8x2xf32>) -> tensor<4x2xf32>
  return %p : tensor<4x2xf32>
}

// The tangent of an operand is not marked; the cotangent of a result is as wide as that. A
// conversion that something else reads stays.
// CHECK-LABEL: func.func @derivatives(
// CHECK-NEXT:    [[B:%.+]] = stablehlo.convert %arg1 : (tensor<8x2xbf16>) -> tensor<8x2xf32>
// CHECK-NEXT:    [[T:%.+]] = stablehlo.dot_general %arg0, %arg1, contracting_dims = [1] x [0] : (tensor<4x8xbf16>, tensor<8x2xbf16>) -> tensor<4x2xf32>
// CHECK-NEXT:    [[C:%.+]] = stablehlo.dot_general %arg2, [[B]], contracting_dims = [1] x [1] : (tensor<4x2xf32>, tensor<8x2xf32>) -> tensor<4x8xf32>
// CHECK-NEXT:    return [[T]], [[C]]
func.func @derivatives(%dx: tensor<4x8xbf16>, %y: tensor<8x2xbf16>, %ct: tensor<4x2xf32>)
    -> (tensor<4x2xf32>, tensor<4x8xf32>) {
  %a = stablehlo.convert %dx : (tensor<4x8xbf16>) -> tensor<4x8xf32>
  %b = stablehlo.convert %y {metagrad.widened} : (tensor<8x2xbf16>) -> tensor<8x2xf32>
  %t = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0] : (tensor<4x8xf32>, tensor<8x2xf32>) -> tensor<4x2xf32>
  %c = stablehlo.dot_general %ct, %b, contracting_dims = [1] x [1] : (tensor<4x2xf32>, tensor<8x2xf32>) -> tensor<4x8xf32>
  return %t, %c : tensor<4x2xf32>, tensor<4x8xf32>
}

// A product in float32 that the user wrote stays one.
// CHECK-LABEL: func.func @others(
// CHECK:         stablehlo.dot_general {{%.+}}, {{%.+}}, contracting_dims = [1] x [0] : (tensor<4x8xf32>, tensor<8x2xf32>) -> tensor<4x2xf32>
func.func @others(%x: tensor<4x8xbf16>, %y: tensor<8x2xbf16>) -> tensor<4x2xf32> {
  %a = stablehlo.convert %x : (tensor<4x8xbf16>) -> tensor<4x8xf32>
  %b = stablehlo.convert %y : (tensor<8x2xbf16>) -> tensor<8x2xf32>
  %p = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0] : (tensor<4x8xf32>, tensor<8x2xf32>) -> tensor<4x2xf32>
  return %p : tensor<4x2xf32>
}

// A product of an array with itself: one conversion is both operands.
// CHECK-LABEL: func.func @squared(
// CHECK-NEXT:    [[P:%.+]] = stablehlo.dot_general %arg0, %arg0, contracting_dims = [1] x [1] : (tensor<4x8xf16>, tensor<4x8xf16>) -> tensor<4x4xf32>
// CHECK-NEXT:    return [[P]]
func.func @squared(%x: tensor<4x8xf16>) -> tensor<4x4xf32> {
  %a = stablehlo.convert %x {metagrad.widened} : (tensor<4x8xf16>) -> tensor<4x8xf32>
  %p = stablehlo.dot_general %a, %a, contracting_dims = [1] x [1] : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<4x4xf32>
  return %p : tensor<4x4xf32>
}
