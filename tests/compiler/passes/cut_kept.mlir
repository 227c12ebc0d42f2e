// RUN: metagrad-opt %s --pass=cut | filecheck %s

// The frontend's functions are made for the results that `kept` lists, whether or not lowering left
// a reader of them: here the value.

func.func public @step(%w: tensor<f32>, %z: tensor<f32>, %b: tensor<f32>) -> tensor<f32> {
  %v, %g = "metagrad.grad"(%w, %z) {loss = @loss, wrt = [0], kept = [0, 1]} : (tensor<f32>, tensor<f32>) -> (tensor<f32>, tensor<f32>)
  %n = stablehlo.subtract %w, %g : tensor<f32>
  return %n : tensor<f32>
}
func.func private @loss(%w: tensor<f32>, %x: tensor<f32>) -> tensor<f32> {
  %l = stablehlo.multiply %w, %x : tensor<f32>
  return %l : tensor<f32>
}

// CHECK:      func.func private @update(%arg0: tensor<f32>, %arg1: tensor<f32>, %arg2: tensor<f32>, %arg3: tensor<f32>, %arg4: tensor<f32>) -> tensor<f32> {
// CHECK-NEXT:   stablehlo.subtract %arg0, %arg4
// CHECK:      func.func private @inner({{.*}}) -> (tensor<f32>, tensor<f32>) {
