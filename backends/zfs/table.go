package zfs

import (
	"bytes"
	"io"
)

// The partition table that zpool(8) makes on a whole disk is a GPT. Its first entry is a partition for ZFS, and its
// ninth entry is reserved. Each has its own type, and the first has a name.
const (
	// 6a898cc3-1dd2-11b2-99a6-080020736631
	usrType = "\xc3\x8c\x89\x6a\xd2\x1d\xb2\x11\x99\xa6\x08\x00\x20\x73\x66\x31"
	// 6a945a3b-1dd2-11b2-99a6-080020736631
	reservedType = "\x3b\x5a\x94\x6a\xd2\x1d\xb2\x11\x99\xa6\x08\x00\x20\x73\x66\x31"
	usrName      = "z\x00f\x00s\x00"
	reservedAt   = 8

	entrySize  = 128
	entryName  = 56 // offset of the name in an entry
	arraySize  = 16 << 10
	gptText    = "EFI PART"
	mbrEntries = 446
)

// hasZpoolTable checks both ends of a device, where partition tables are stored. It returns true if they are empty, or
// have a complete or partial table of zpool(8).
func hasZpoolTable(device io.ReaderAt, size int64) (bool, error) {
	head, tail := make([]byte, tableSize), make([]byte, tableSize)
	if _, err := device.ReadAt(head, 0); err != nil {
		return false, err
	}
	if _, err := device.ReadAt(tail, size-tableSize); err != nil && err != io.EOF {
		return false, err
	}
	if blank(head) && blank(tail) {
		return true, nil
	}
	return zpoolTable(head, tail, 512) || zpoolTable(head, tail, 4096), nil
}

// zpoolTable reports whether the ends of a device have a table of zpool(8) for this sector size. At least one of the
// two copies of the table must exist. The place of the other copy must be empty, or contain a copy too.
func zpoolTable(head, tail []byte, sector int) bool {
	first, last := head[2*sector:2*sector+arraySize], tail[tableSize-sector-arraySize:tableSize-sector]
	if !zpoolEntries(first) && !zpoolEntries(last) {
		return false
	}
	return zpoolMBR(head[:sector]) && header(head[sector:2*sector]) && header(tail[tableSize-sector:]) &&
		(blank(first) || zpoolEntries(first)) && blank(head[2*sector+arraySize:]) &&
		(blank(last) || zpoolEntries(last)) && blank(tail[:tableSize-sector-arraySize])
}

// zpoolMBR reports whether a sector is empty or the protective MBR, which keeps other programs off a GPT.
func zpoolMBR(b []byte) bool {
	const kind, all = mbrEntries + 4, 0xee
	return blank(b) || blank(b[:mbrEntries]) && b[kind] == all && blank(b[mbrEntries+16:510]) && b[510] == 0x55 &&
		b[511] == 0xaa && blank(b[512:])
}

func header(b []byte) bool {
	return blank(b) || bytes.HasPrefix(b, []byte(gptText)) && blank(b[entrySize:])
}

// zpoolEntries reports whether an array has both partitions of zpool(8), and no other.
func zpoolEntries(b []byte) bool {
	usr, reserved := b[:entrySize], b[reservedAt*entrySize:(reservedAt+1)*entrySize]
	return bytes.HasPrefix(usr, []byte(usrType)) && bytes.HasPrefix(usr[entryName:], []byte(usrName)) &&
		bytes.HasPrefix(reserved, []byte(reservedType)) &&
		blank(b[entrySize:reservedAt*entrySize]) && blank(b[(reservedAt+1)*entrySize:])
}

func blank(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }
