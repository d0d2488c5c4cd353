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

// An encryption root is a filesystem with a key that its descendants use too. The filesystem of an encrypted dataset is
// an encryption root, and its heads use its key.
//
// A received filesystem is an encryption root itself. Its key equals the key of its source. A clone keeps the
// encryption root, and so the key, of its origin, even if that dataset was deleted.
//
// keyProperty is a user property that names the data key. All filesystems below inherit it.
const (
	keyProperty = "drover:key"
	keyPurpose  = "drover zfs key"
	keySize     = 32 // bytes, as keyformat=raw requires
)

// datasetKeys records the encryption roots whose keys ZFS has loaded. ZFS keeps a key until zfs unload-key, which it
// refuses while a filesystem that uses the key is mounted.
type datasetKeys struct {
	source  backends.Keys
	problem string // why the pool cannot encrypt, or "" if it can

	mu     sync.Mutex     // protects held and loaded, and is held while a key is loaded or unloaded
	held   map[string]int // by encryption root: the number of attachments and mounts in progress that need the key
	loaded map[string]bool
}

// alternative ends the error messages about a pool that cannot encrypt. It names the backends that can encrypt without
// ZFS.
const alternative = "or use a pool of backend loop or lvm"

// encryptionProblem returns why the zpool or the host's ZFS cannot encrypt, with an instruction for the operator. It
// returns "" if both can.
func (t tool) encryptionProblem(ctx context.Context, h poolFilesystem) (string, error) {
	const needs, install = "encryption needs OpenZFS 0.8 or later",
		"(Debian, from contrib: apt-get install zfsutils-linux zfs-dkms; " + alternative + ")"
	if h.fuse { // zfs-fuse supports zpools up to version 23
		return needs + " instead of zfs-fuse, which has no feature@encryption " + install, nil
	}
	zpool, _, _ := strings.Cut(h.name, "/")
	res, err := t.runner.Run(ctx, run.Command{
		Name:    zpoolProgram,
		Args:    []string{"get", "-H", "-o", "value", "feature@encryption", zpool},
		Timeout: limit,
	})
	switch err = classify(err); {
	case errors.Is(err, errNoProperty):
		version, rErr := os.ReadFile(moduleVersion)
		if rErr != nil {
			version = []byte("an older one")
		}
		return needs + ": the kernel has " + strings.TrimSpace(string(version)) +
			", which has no feature@encryption " + install, nil
	case err != nil:
		return "", err
	}
	switch strings.TrimSpace(string(res.Stdout)) {
	case "enabled", "active":
		return "", nil
	case "disabled":
		return "encryption needs a feature of its zpool (zpool set feature@encryption=enabled " + zpool + "; " +
			alternative + ")", nil
	}
	return "encryption needs a zpool with features, and " + zpool + " has an old version (zpool upgrade " +
		zpool + ", after which older ZFS versions cannot import it; " + alternative + ")", nil
}

// moduleVersion is the file that contains the version of the kernel's ZFS module.
const moduleVersion = "/sys/module/zfs/version"

// missing returns the line of Info.Missing about encryption, or nil if the pool can encrypt.
func (p *Pool) missing() []string {
	if p.encrypts() {
		return nil
	}
	return []string{p.keys.problem}
}

// encrypts reports whether the pool can have encrypted datasets.
func (p *Pool) encrypts() bool { return p.keys.problem == "" }

// cannotEncrypt returns the error for a request for an encrypted dataset in a pool that cannot encrypt.
func (p *Pool) cannotEncrypt() error {
	return dataset.Errorf(dataset.ErrUnsupported, "%s cannot encrypt: %s, and then a restart of drover",
		p.fs.name, p.keys.problem)
}

// runWithKey runs a zfs command that reads a key from its standard input.
func (t tool) runWithKey(ctx context.Context, key []byte, args ...string) error {
	_, err := t.runner.Run(ctx, run.Command{Name: program, Args: args, Stdin: bytes.NewReader(key), Timeout: limit})
	return classify(err)
}

// dataKey returns the key that ZFS uses for an encrypted dataset. It derives the key from the data key by HKDF. It
// returns dataset.ErrForbidden if the pool was opened without a source of keys.
func (p *Pool) dataKey(ctx context.Context, d dataset.Dataset) ([]byte, error) {
	if p.keys.source == nil {
		return nil, dataset.Errorf(dataset.ErrForbidden, "it is encrypted, and no keys are available")
	}
	key, err := p.keys.source.DataKey(ctx, d)
	if err != nil {
		return nil, err
	}
	return hkdf.Key(sha256.New, key, nil, keyPurpose, keySize)
}

// makeRoot makes the filesystem of a dataset, below which its heads are. If key is not nil, the filesystem becomes an
// encryption root with that key.
func (p *Pool) makeRoot(ctx context.Context, d dataset.Dataset, key []byte) error {
	args := []string{"create", "-o", "canmount=off"}
	if d.Encryption != nil {
		args = append(args, "-o", keyProperty+"="+d.Encryption.ID.String())
	}
	if key == nil {
		return p.tool.zfs(ctx, append(args, p.root(d.ID))...)
	}
	args = append(args, "-o", "encryption=aes-256-gcm", "-o", "keyformat=raw", "-o", "keylocation=prompt", p.root(d.ID))
	return p.tool.runWithKey(ctx, key, args...)
}

// sameKey returns dataset.ErrInvalid unless the filesystem fs and the record d name the same data key, or neither is
// encrypted.
func (p *Pool) sameKey(ctx context.Context, fs string, d dataset.Dataset) error {
	if !p.encrypts() {
		return nil
	}
	id, err := p.tool.value(ctx, keyProperty, fs)
	switch {
	case err != nil:
		return err
	case (id != "-") != (d.Encryption != nil):
		return dataset.Errorf(dataset.ErrInvalid, "either it or its source is encrypted, but not both")
	case d.Encryption != nil && id != d.Encryption.ID.String():
		return dataset.Errorf(dataset.ErrInvalid,
			"its source is encrypted with data key %s, and its record has %s", id, d.Encryption.ID)
	}
	return nil
}

// unlock loads the key of a head into ZFS if the head is encrypted. The record of the dataset decides whether it is
// encrypted. If the record cannot be read, unlock asks ZFS. The key stays loaded until the caller calls lock and
// nothing that needs the key is mounted. unlock returns dataset.ErrCorrupt if the record says that the dataset is
// encrypted and ZFS says that it is not.
func (p *Pool) unlock(ctx context.Context, f *shelf.Folder, head string) (lock func(), err error) {
	lock = func() {}
	d, err := f.ReadRecord()
	if err == nil && d.Encryption == nil {
		return lock, nil
	}
	if err != nil { // if the record cannot be read, trust ZFS: an attacker who can damage a record can also forge one
		d = &dataset.Dataset{ID: f.ID}
	}
	root := "-"
	if p.encrypts() {
		if root, err = p.tool.value(ctx, "encryptionroot", head); err != nil {
			return lock, err
		}
	}
	if !strings.HasPrefix(root, p.top()+"/") { // not encrypted, or encrypted with a key of the operator
		if d.Encryption != nil {
			return lock, dataset.Errorf(dataset.ErrCorrupt,
				"its record says that it is encrypted, but its filesystem is not")
		}
		return lock, nil
	}
	key, err := p.dataKey(ctx, *d)
	if err != nil {
		return lock, err
	}
	lock = p.holdKey(root)
	if err := p.loadKey(ctx, root, key); err != nil {
		lock()
		return func() {}, err
	}
	return lock, nil
}

func (p *Pool) loadKey(ctx context.Context, root string, key []byte) error {
	p.keys.mu.Lock()
	defer p.keys.mu.Unlock()
	err := p.tool.runWithKey(ctx, key, "load-key", root)
	if errors.Is(err, errLoaded) { // an earlier call loaded it: -n verifies that this caller has the right key too
		err = p.tool.runWithKey(ctx, key, "load-key", "-n", root)
	}
	if errors.Is(err, errWrongKey) {
		return dataset.Errorf(dataset.ErrForbidden, "the data key does not open %s", root)
	}
	p.keys.loaded[root] = true
	return err
}

// holdKey keeps the key of root loaded until the returned function is called. If several callers hold the key, the last
// one to call its function unloads the key.
func (p *Pool) holdKey(root string) func() {
	p.keys.mu.Lock()
	defer p.keys.mu.Unlock()
	p.keys.held[root]++
	p.keys.loaded[root] = true
	return sync.OnceFunc(func() {
		p.keys.mu.Lock()
		defer p.keys.mu.Unlock()
		if p.keys.held[root]--; p.keys.held[root] == 0 {
			delete(p.keys.held, root)
			p.unloadKey(root)
		}
	})
}

// unloadKey unloads a key. ZFS refuses this while a filesystem that uses the key is mounted. A later unloadIdle then
// unloads the key. The caller must hold k.mu.
func (p *Pool) unloadKey(root string) {
	if err := p.tool.zfs(context.Background(), "unload-key", root); err == nil || errors.Is(err, errAbsent) {
		delete(p.keys.loaded, root)
	}
}

// unloadIdle unloads the keys of filesystems that are not mounted any more. It is called by Reap and Close, and by Used
// before it lists the filesystems.
func (p *Pool) unloadIdle() {
	p.keys.mu.Lock()
	defer p.keys.mu.Unlock()
	if len(p.keys.loaded) == 0 {
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
	for root := range p.keys.loaded {
		if p.keys.held[root] == 0 && !mounted[root] {
			p.unloadKey(root)
		}
	}
}

// findLoaded records the keys that an earlier run left loaded in ZFS, so that unloadIdle unloads them. It is called
// when the pool is opened.
func (p *Pool) findLoaded(ctx context.Context) error {
	p.keys.held, p.keys.loaded = map[string]int{}, map[string]bool{}
	if !p.encrypts() {
		return nil
	}
	res, err := p.tool.runner.Run(ctx, run.Command{
		Name: program,
		Args: []string{"get", "-Hp", "-d", "2", "-t", "filesystem", "-o", "name,value",
			"encryptionroot,keystatus", p.top()},
		Timeout: limit,
	})
	if err != nil {
		return classify(err)
	}
	roots := map[string]bool{}
	for line := range strings.Lines(string(res.Stdout)) {
		switch name, value, _ := strings.Cut(strings.TrimSpace(line), "\t"); {
		case value == name && name != p.top():
			roots[name] = true
		case value == "available" && roots[name]:
			p.keys.loaded[name] = true
		}
	}
	return nil
}
