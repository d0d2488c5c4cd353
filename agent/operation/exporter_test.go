package operation_test

import (
	"bytes"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
)

// An export reports which sockets are missing from its archive.
func TestExportReportsSkippedSockets(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	head := filepath.Join(r.Root, "pool/datasets", d.ID.String(), "head")
	if err := unix.Mknod(filepath.Join(head, "mysql.sock"), unix.S_IFSOCK|0o600, 0); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	lacks, err := r.Export(t.Context(), "db", "", &archive)
	if err != nil || lacks.Count != 1 || len(lacks.First) != 1 || lacks.First[0] != "mysql.sock" {
		t.Errorf("%+v, %v", lacks, err)
	}
}
