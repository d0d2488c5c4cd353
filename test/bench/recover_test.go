package bench

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

const (
	recoveredVolumes = 5
	recoverProfiles  = "default: gold\nprofiles:\n  gold: {}\n"
)

// BenchmarkRecover loses a host with five volumes of 1 GiB, and brings them back on an empty one with drover recover
// --all. The repository is a directory on the same disk as the pools. It also measures the backups, and a rehearsal
// before the loss. The recovery point is the beginning of the second backup, after which nothing is written.
func BenchmarkRecover(b *testing.B) {
	size := int64(knob(b, "BENCH_RECOVER_MIB", 1<<10)) << 20
	elsewhere := b.TempDir()
	at, secret := filepath.Join(elsewhere, "offsite"), filepath.Join(elsewhere, "password")
	require.NoError(b, os.WriteFile(secret, []byte("correct horse battery staple"), 0o600))
	fmt.Printf("\n| %d volumes of %d MiB | seconds |\n|---|--:|\n", recoveredVolumes, size>>20)
	seconds := func(what string, f func()) { fmt.Printf("| %s | %.1f |\n", what, timed(f)/1e3) }
	var sums []string
	b.Run("lost", func(b *testing.B) { // all that this host has is removed at the end
		h := host.Start(b, host.Options{Profiles: recoverProfiles, Size: 4*recoveredVolumes*size + 8<<30})
		h.Must(b, "repository", "add", "offsite", at, "--password", "file:"+secret, "--max-read", "0")
		var names []string
		for i := range recoveredVolumes {
			name := fmt.Sprint("db", i)
			names = append(names, name)
			h.Must(b, "volume", "create", name, "-o", fmt.Sprintf("size=%dB", 2*size+256<<20))
			h.Plug(b).Within(b, name, func(root string) {
				writeDatabase(b, filepath.Join(root, "data"), size, uint64(i))
				sums = append(sums, sumOf(b, filepath.Join(root, "data")))
			})
		}
		seconds("first backup of all", func() { command(b, h, append([]string{"backup", "create"}, names...)...) })
		for i, name := range names {
			h.Plug(b).Within(b, name, func(root string) {
				overwrite(b, filepath.Join(root, "data"), uint64(i))
				sums[i] = sumOf(b, filepath.Join(root, "data"))
			})
		}
		seconds("second backup, of one hundredth that was overwritten", func() {
			command(b, h, append([]string{"backup", "create"}, names...)...)
		})
		seconds("rehearsal where the volumes exist", func() { rehearse(b, h) })
		quiet(b)
	})
	b.Run("recovered", func(b *testing.B) {
		h := host.Start(b, host.Options{Profiles: recoverProfiles, Size: 4*recoveredVolumes*size + 8<<30})
		seconds("recovery on an empty host, two volumes at a time", func() {
			command(b, h, "recover", "--from", at, "--name", "offsite", "--password", "file:"+secret, "--all", "--take-over")
		})
		for i := range recoveredVolumes {
			h.Plug(b).Within(b, fmt.Sprint("db", i), func(root string) {
				if got := sumOf(b, filepath.Join(root, "data")); got != sums[i] {
					b.Errorf("volume %d differs", i)
				}
			})
		}
		quiet(b)
	})
}

// rehearse fails unless a rehearsal verifies all volumes.
func rehearse(b *testing.B, h *host.Host) {
	b.Helper()
	var out struct{ Verified int }
	text := command(b, h, "recover", "--from", "offsite", "--all", "--rehearse", "-o", "json")
	if err := json.Unmarshal(text, &out); err != nil || out.Verified != recoveredVolumes {
		b.Fatalf("%d volumes are verified, %v", out.Verified, err)
	}
}

// databasePage is the size of the pages that writeDatabase writes.
const databasePage = 8 << 10

// page returns a page like one of a database: a header, rows of text with numbers, and as much random data, which
// cannot be compressed.
func page(dice *rand.ChaCha8, number uint64) []byte {
	p := make([]byte, databasePage)
	binary.LittleEndian.PutUint64(p, number)
	row := strings.Repeat(fmt.Sprintf("|%012d|customer|2026-11-28|shipped|", number), databasePage/2/40)
	copy(p[24:databasePage/2], row)
	_, _ = dice.Read(p[databasePage/2:])
	return p
}

// writeDatabase writes a file of pages, and flushes it.
func writeDatabase(b *testing.B, path string, size int64, seed uint64) {
	b.Helper()
	f, err := os.Create(path)
	require.NoError(b, err)
	defer f.Close()
	dice := rand.NewChaCha8([32]byte{byte(seed)})
	for n := range size / databasePage {
		_, err := f.Write(page(dice, uint64(n)))
		require.NoError(b, err)
	}
	require.NoError(b, f.Sync())
}

// overwrite overwrites one hundredth of the pages of a file, in scattered places.
func overwrite(b *testing.B, path string, seed uint64) {
	b.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(b, err)
	defer f.Close()
	info, err := f.Stat()
	require.NoError(b, err)
	dice, pages := rand.NewChaCha8([32]byte{byte(seed), 1}), info.Size()/databasePage
	for range pages / 100 {
		n := int64(dice.Uint64() % uint64(pages))
		_, err := f.WriteAt(page(dice, uint64(n)), n*databasePage)
		require.NoError(b, err)
	}
	require.NoError(b, f.Sync())
}

// sumOf returns the checksum of a file.
func sumOf(b *testing.B, path string) string {
	b.Helper()
	f, err := os.Open(path)
	require.NoError(b, err)
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	require.NoError(b, err)
	return hex.EncodeToString(h.Sum(nil))
}

// command runs a command of the drover command line, and returns its output. Unlike host.Host.Must, it has no time
// limit.
func command(b *testing.B, h *host.Host, args ...string) []byte {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), host.Binary(b), args...)
	cmd.Env = append(os.Environ(), "DROVER_API="+h.API())
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoErrorf(b, err, "drover %v", args)
	return out
}
