package fault

import "golang.org/x/sys/unix"

// legacyCalls are system calls that change something and that newer architectures do not have.
var legacyCalls = map[int]string{
	unix.SYS_RENAME: "rename", unix.SYS_LINK: "link", unix.SYS_SYMLINK: "symlink", unix.SYS_UNLINK: "unlink",
	unix.SYS_RMDIR: "unlink", unix.SYS_MKDIR: "mkdir", unix.SYS_MKNOD: "mknod", unix.SYS_CHMOD: "chmod",
	unix.SYS_CHOWN: "chown", unix.SYS_LCHOWN: "chown",
}
