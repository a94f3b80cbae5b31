// Package node tests the whole server on a real node of Kubernetes, with the build tag node: "go tool task test:node".
package node
