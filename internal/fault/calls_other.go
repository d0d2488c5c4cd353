//go:build !amd64

package fault

var older map[int]string
