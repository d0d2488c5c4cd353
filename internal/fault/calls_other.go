//go:build !amd64

package fault

var legacyCalls map[int]string
