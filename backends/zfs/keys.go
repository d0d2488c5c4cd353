package zfs

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"os"
	"strings"
	"sync"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/run"
)

// The filesystem of an encrypted dataset is what ZFS calls an encryption root: its heads have
// its key. A received filesystem is an encryption root itself, with the key of its source: the same key. A
// clone has the key and the encryption root of its origin, which may be deleted by then. A property names the
// data key, for all filesystems below.
const (
	keyProperty = "drover:key"
	keyPurpose  = "drover zfs key"
	keySize     = 32 // of keyformat=raw
)

// datasetKeys loads the keys of encrypted datasets, and unloads those that nothing needs.
type datasetKeys struct {
	*storage
	source backends.Keys
	locks  locks
	lacks  string // what the host lacks to encrypt; empty: nothing
}

// locks are the encryption roots whose keys ZFS has been given. It keeps them until it is told
// to forget them, which it refuses while anything that has one is mounted.
type locks struct {
	mu     sync.Mutex     // held while a key is given or forgotten
	held   map[string]int // by those who are about to mount
	loaded map[string]bool
}

// sealer is what would do where a ZFS or its zpool does not.
const sealer = "or take a pool of backend loop or lvm"

// lacks returns which feature for encryption a zpool, or this ZFS, lacks; "": none.
func (t tool) lacks(ctx context.Context, h home) (string, error) {
	const needs, install = "encryption needs OpenZFS 0.8 or later",
		"(Debian, from contrib: apt-get install zfsutils-linux zfs-dkms; " + sealer + ")"
	if h.fuse { // whose newest zpools are of version 23
		return needs + " in the place of zfs-fuse, which has no feature@encryption " + install, nil
	}
	zpool, _, _ := strings.Cut(h.name, "/")
	res, err := t.runner.Run(ctx, run.Command{
		Name:    zpoolProgram,
		Args:    []string{"get", "-H", "-o", "value", "feature@encryption", zpool},
		Timeout: limit,
	})
	switch err = classify(err); {
	case errors.Is(err, errLacks):
		version, rErr := os.ReadFile(moduleVersion)
		if rErr != nil {
			version = []byte("an older one")
		}
		return needs + ": the kernel's is " + strings.TrimSpace(string(version)) +
			", which has no feature@encryption " + install, nil
	case err != nil:
		return "", err
	}
	switch strings.TrimSpace(string(res.Stdout)) {
	case "enabled", "active":
		return "", nil
	case "disabled":
		return "encryption needs a feature of its zpool (zpool set feature@encryption=enabled " + zpool + "; " +
			sealer + ")", nil
	}
	return "encryption needs a zpool with features, and " + zpool + " is of an old version (zpool upgrade " +
		zpool + ", which ZFS from before then does not import any more; " + sealer + ")", nil
}

// moduleVersion is a file with the version of the kernel's ZFS.
const moduleVersion = "/sys/module/zfs/version"

// missing returns the features that the pool's zpool, or this ZFS, lacks.
func (k *datasetKeys) missing() []string {
	if k.encrypts() {
		return nil
	}
	return []string{k.lacks}
}

// encrypts tells whether the pool has datasets that are encrypted.
func (k *datasetKeys) encrypts() bool { return k.lacks == "" }

// cannotEncrypt is the error for a request for an encrypted dataset.
func (k *datasetKeys) cannotEncrypt() error {
	return dataset.Errorf(dataset.ErrUnsupported, "%s cannot encrypt: %s, and then a restart of drover",
		k.home.name, k.lacks)
}

// given runs a command that reads a key.
func (t tool) given(ctx context.Context, key []byte, args ...string) error {
	_, err := t.runner.Run(ctx, run.Command{Name: program, Args: args, Stdin: bytes.NewReader(key), Timeout: limit})
	return classify(err)
}

// dataKey returns the key that ZFS has for an encrypted dataset; nil: it is not encrypted.
func (k *datasetKeys) dataKey(ctx context.Context, d dataset.Dataset) ([]byte, error) {
	if k.source == nil {
		return nil, dataset.Errorf(dataset.ErrForbidden, "it is encrypted, and no keys are at hand")
	}
	key, err := k.source.DataKey(ctx, d)
	if err != nil {
		return nil, err
	}
	return hkdf.Key(sha256.New, key, nil, keyPurpose, keySize)
}

// makeRoot makes the filesystem of a dataset: with a key an encryption root.
func (k *datasetKeys) makeRoot(ctx context.Context, d dataset.Dataset, key []byte) error {
	args := []string{"create", "-o", "canmount=off"}
	if d.Encryption != nil {
		args = append(args, "-o", keyProperty+"="+d.Encryption.ID.String())
	}
	if key == nil {
		return k.tool.zfs(ctx, append(args, k.root(d.ID))...)
	}
	args = append(args, "-o", "encryption=aes-256-gcm", "-o", "keyformat=raw", "-o", "keylocation=prompt", k.root(d.ID))
	return k.tool.given(ctx, key, args...)
}

// sameKey fails with ErrInvalid unless a filesystem is encrypted with the data key of a record, or neither is
// encrypted.
func (k *datasetKeys) sameKey(ctx context.Context, fs string, d dataset.Dataset) error {
	if !k.encrypts() {
		return nil
	}
	id, err := k.tool.value(ctx, keyProperty, fs)
	switch {
	case err != nil:
		return err
	case (id != "-") != (d.Encryption != nil):
		return dataset.Errorf(dataset.ErrInvalid, "of it and what it is made of one is encrypted, and the other is not")
	case d.Encryption != nil && id != d.Encryption.ID.String():
		return dataset.Errorf(dataset.ErrInvalid,
			"what it is made of is encrypted with data key %s, and its record has %s", id, d.Encryption.ID)
	}
	return nil
}

// unlock gives ZFS the key of a head that is encrypted. It has it until lock was called, and
// nothing is mounted that needs it. dataset.ErrCorrupt: its record alone says that it is encrypted.
func (k *datasetKeys) unlock(ctx context.Context, f *shelf.Folder, head string) (lock func(), err error) {
	lock = func() {}
	d, err := f.ReadRecord()
	if err == nil && d.Encryption == nil {
		return lock, nil
	}
	if err != nil { // an attacker with the keys may have a record too
		d = &dataset.Dataset{ID: f.ID}
	}
	root := "-"
	if k.encrypts() {
		if root, err = k.tool.value(ctx, "encryptionroot", head); err != nil {
			return lock, err
		}
	}
	if !strings.HasPrefix(root, k.top()+"/") { // the operator has encrypted the home, or nothing is encrypted
		if d.Encryption != nil {
			return lock, dataset.Errorf(dataset.ErrCorrupt,
				"its record says that it is encrypted, and its filesystem is not")
		}
		return lock, nil
	}
	key, err := k.dataKey(ctx, *d)
	if err != nil {
		return lock, err
	}
	lock = k.holdKey(root)
	if err := k.load(ctx, root, key); err != nil {
		lock()
		return func() {}, err
	}
	return lock, nil
}

func (k *datasetKeys) load(ctx context.Context, root string, key []byte) error {
	k.locks.mu.Lock()
	defer k.locks.mu.Unlock()
	err := k.tool.given(ctx, key, "load-key", root)
	if errors.Is(err, errLoaded) { // by another call: the caller must have the key all the same
		err = k.tool.given(ctx, key, "load-key", "-n", root)
	}
	if errors.Is(err, errWrongKey) {
		return dataset.Errorf(dataset.ErrForbidden, "the data key does not open %s", root)
	}
	k.locks.loaded[root] = true
	return err
}

// holdKey keeps a key that ZFS has, until the returned function is called.
func (k *datasetKeys) holdKey(root string) func() {
	k.locks.mu.Lock()
	defer k.locks.mu.Unlock()
	k.locks.held[root]++
	k.locks.loaded[root] = true
	return sync.OnceFunc(func() {
		k.locks.mu.Lock()
		defer k.locks.mu.Unlock()
		if k.locks.held[root]--; k.locks.held[root] == 0 {
			delete(k.locks.held, root)
			k.forget(root)
		}
	})
}

// forget has ZFS forget a key, unless something that has it is mounted: then a later call does.
func (k *datasetKeys) forget(root string) {
	if err := k.tool.zfs(context.Background(), "unload-key", root); err == nil || errors.Is(err, errAbsent) {
		delete(k.locks.loaded, root)
	}
}

// lockIdle makes ZFS forget the keys of filesystems that are not mounted any more.
func (k *datasetKeys) lockIdle() {
	k.locks.mu.Lock()
	defer k.locks.mu.Unlock()
	if len(k.locks.loaded) == 0 {
		return
	}
	table, err := mount.Table()
	if err != nil {
		return
	}
	mounted := map[string]bool{}
	for _, m := range table {
		if i := strings.LastIndex(m.Source, "/"); i > 0 && isZFS(m) {
			mounted[m.Source[:i]], mounted[m.Source] = true, true
		}
	}
	for root := range k.locks.loaded {
		if k.locks.held[root] == 0 && !mounted[root] {
			k.forget(root)
		}
	}
}

// findLoaded looks which keys an earlier run has left with ZFS.
func (k *datasetKeys) findLoaded(ctx context.Context) error {
	k.locks.held, k.locks.loaded = map[string]int{}, map[string]bool{}
	if !k.encrypts() {
		return nil
	}
	res, err := k.tool.runner.Run(ctx, run.Command{
		Name: program,
		Args: []string{"get", "-Hp", "-d", "2", "-t", "filesystem", "-o", "name,value",
			"encryptionroot,keystatus", k.top()},
		Timeout: limit,
	})
	if err != nil {
		return classify(err)
	}
	own := map[string]bool{}
	for line := range strings.Lines(string(res.Stdout)) {
		switch name, value, _ := strings.Cut(strings.TrimSpace(line), "\t"); {
		case value == name && name != k.top():
			own[name] = true
		case value == "available" && own[name]:
			k.locks.loaded[name] = true
		}
	}
	return nil
}
