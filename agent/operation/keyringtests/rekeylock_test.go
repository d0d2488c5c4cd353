package keyring_test

import (
	"context"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/keys"
)

// gatedProgram reports that it runs, and prints its key when the test allows it.
const gatedProgram = `#!/bin/sh
echo > "$0.runs"
read go < "$0.goes"
exec cat "$0.key"
`

// While a rekey waits for a key program, the volume can be mounted and unmounted. If another rekey changes the key
// meanwhile, the rekey reads it once more.
func TestRekeyDoesNotBlockMounts(t *testing.T) {
	k := newKeyRig(t)
	d := k.encrypted("db@run")
	if err := os.WriteFile(k.program, []byte(gatedProgram), 0o700); err != nil {
		t.Fatal(err)
	}
	pipe := func(name string) *os.File {
		if err := unix.Mkfifo(k.program+name, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(k.program+name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	runs, goes := pipe(".runs"), pipe(".goes")
	key, err := keys.New(k.secret(5), "test")
	if err != nil {
		t.Fatal(err)
	}
	data, err := key.Unwrap(*d.Encryption)
	if err != nil {
		t.Fatal(err)
	}

	ended := make(chan error, 1)
	go func() { ended <- k.rekey("db", "") }()
	told, count := make(chan struct{}), 0
	go func() {
		for b := make([]byte, 1); ; told <- struct{}{} {
			if _, err := runs.Read(b); err != nil {
				return
			}
		}
	}()
	for {
		select {
		case <-told:
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
			if count != 4 { // the new key each time, and once more after the other rekey
				t.Errorf("the program was run %d times", count)
			}
			if v, err := k.Control.Volume(t.Context(), "db"); err != nil || string(v.Encryption.Wrapped) == string(d.Encryption.Wrapped) {
				t.Errorf("the data key was not wrapped again: %v", err)
			}
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		unlock, err := k.Locks.Lock(ctx, d.ID, "unmount")
		cancel()
		if err != nil {
			t.Errorf("run %d: %v", count, err)
		} else {
			unlock()
		}
		if count++; count == 1 { // like another rekey
			now, other := d, key.Wrap(d.Encryption.ID, data)
			now.Encryption = &other
			k.Cache.Apply(now, 0)
		}
		if _, err := goes.WriteString("go\n"); err != nil {
			t.Fatal(err)
		}
	}
}
