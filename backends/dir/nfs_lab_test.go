//go:build lab

package dir_test

import (
	"testing"

	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/lab/inside"
)

// A pool on a share that only one host uses.
func TestOnNFS(t *testing.T) {
	at := inside.Serve(t, mounting(t, "xfs", "", "mkfs.xfs", "-q", "-K", "-f"))
	backendtest.Run(t, "dir", below(at), treetest.Attributes, treetest.ACLs)
}
