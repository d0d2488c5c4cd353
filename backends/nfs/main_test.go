package nfs_test

import (
	"os"
	"testing"

	"github.com/droverhq/drover/internal/scratch"
)

// The tests run in a mount namespace of their own: a process that another package's tests start would
// copy their mounts and then hold them.
func TestMain(m *testing.M) { os.Exit(scratch.Main(m)) }
