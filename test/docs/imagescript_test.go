package docs

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/agent/backup"
	"github.com/droverhq/drover/backends"
)

// The script in docs/backups.md makes an image from its segments. Where no segment is, the image has zeros. It does not
// overwrite a file.
func TestImageScript(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(filepath.Join(top, "docs/backups.md"))
	must(err)
	const head = "#!/bin/sh\n# usage: join-segments"
	_, script, _ := strings.Cut(string(page), "```sh\n"+head)
	script, _, _ = strings.Cut(script, "```")
	dir := t.TempDir()
	program, folder, image := filepath.Join(dir, "join"), filepath.Join(dir, "restored"), filepath.Join(dir, "db.img")
	must(os.WriteFile(program, []byte(head+script), 0o755))
	want := make([]byte, 1030*backends.SegmentSize+4096)
	random := rand.NewChaCha8([32]byte{1})
	segments := []int64{0, 2, 1023, 1024, 1030} // 1030 is shorter than the others
	for _, index := range segments {
		from := index * backends.SegmentSize
		content := want[from:min(from+backends.SegmentSize, int64(len(want)))]
		_, _ = random.Read(content)
		path := filepath.Join(folder, backup.ImageName, backends.SegmentPath(index))
		must(os.MkdirAll(filepath.Dir(path), 0o700))
		must(os.WriteFile(path, content, 0o600))
	}
	record, err := json.Marshal(backup.Record{
		Version: 2, Volume: "db", Size: 1 << 30, Labels: map[string]string{"bytes": "7"},
		Image: &backup.Image{Bytes: int64(len(want)), SegmentSize: backends.SegmentSize, Segments: int64(len(segments))},
	})
	must(err)
	must(os.WriteFile(filepath.Join(folder, backup.RecordName), record, 0o600))
	if out, err := exec.CommandContext(t.Context(), program, folder, image).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got, err := os.ReadFile(image)
	must(err)
	if !bytes.Equal(got, want) {
		t.Errorf("the image has %d bytes, and differs from the original with %d", len(got), len(want))
	}
	if err := exec.CommandContext(t.Context(), program, folder, image).Run(); err == nil {
		t.Error("the script overwrites an image")
	}
}
