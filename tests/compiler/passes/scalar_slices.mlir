// RUN: metagrad-opt %s --pass=scalar-slices | filecheck %s

// CHECK-LABEL: func.func @read(
// CHECK-NEXT:    return %arg0 : tensor<f32>
func.func @read(%x: tensor<f32>) -> tensor<f32> {
  %r = "stablehlo.dynamic_slice"(%x) <{slice_sizes = array<i64>}> : (tensor<f32>) -> tensor<f32>
  return %r : tensor<f32>
}

// CHECK-LABEL: func.func @write(
// CHECK-NEXT:    return %arg1 : tensor<f32>
func.func @write(%x: tensor<f32>, %u: tensor<f32>) -> tensor<f32> {
  %r = "stablehlo.dynamic_update_slice"(%x, %u) : (tensor<f32>, tensor<f32>) -> tensor<f32>
  return %r : tensor<f32>
}

// A slice of an array of one element reads where it is told.
// CHECK-LABEL: func.func @array(
// CHECK-NEXT:    stablehlo.dynamic_slice %arg0, %arg1, sizes = [1]
func.func @array(%x: tensor<1xf32>, %i: tensor<i32>) -> tensor<1xf32> {
  %r = stablehlo.dynamic_slice %x, %i, sizes = [1] : (tensor<1xf32>, tensor<i32>) -> tensor<1xf32>
  return %r : tensor<1xf32>
}
