# All images for all platforms:
#   docker buildx bake
# A builder that cannot hold several platforms (the engine's own, without its containerd image store) pushes them, or
# makes one at a time:
#   docker buildx bake --set '*.platform=linux/arm64' --load

# Where the images go: REGISTRY/init, REGISTRY/front, REGISTRY/back, REGISTRY/rehearse.
variable "REGISTRY" { default = "lameduck" }
variable "TAG" { default = "latest" }

# What the images say about themselves. Empty is unknown.
variable "COMMIT" { default = "" }
variable "VERSION" { default = "" }
variable "SOURCE" { default = "" }

# The time of the commit. With the same commit it gives the same digests.
variable "SOURCE_DATE_EPOCH" { default = "0" }

group "default" {
  targets = ["init", "front", "back", "rehearse"]
}

target "_image" {
  platforms = ["linux/amd64", "linux/arm64"]
  args = {
    LAMEDUCK_COMMIT   = COMMIT
    LAMEDUCK_VERSION  = VERSION
    LAMEDUCK_SOURCE   = SOURCE
    SOURCE_DATE_EPOCH = SOURCE_DATE_EPOCH
  }
}

target "init" {
  inherits = ["_image"]
  target   = "init"
  tags     = ["${REGISTRY}/init:${TAG}"]
}

target "front" {
  inherits = ["_image"]
  target   = "front"
  tags     = ["${REGISTRY}/front:${TAG}"]
}

target "back" {
  inherits = ["_image"]
  target   = "back"
  tags     = ["${REGISTRY}/back:${TAG}"]
}

target "rehearse" {
  inherits = ["_image"]
  target   = "rehearse"
  tags     = ["${REGISTRY}/rehearse:${TAG}"]
}
