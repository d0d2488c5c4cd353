// Package backup makes backups of volumes in the recorded repositories. Package agent makes its components, and
// registers Creator.Create for the operations of kind backup. At a start it calls UnmountLeftovers and Clear. It embeds
// Catalog, which answers the requests of users to list, show, remove and prune backups. The Importer of package
// operation calls Restorer through functions, to restore a backup, and to verify one.
//
// A backup is a snapshot of restic. It contains a tree with the folder DataName, which has the content of the volume at
// one moment, and the file RecordName, which describes the volume (Record). The tags say which volume it is (Tags). The
// repository has the only list of the backups.
//
// restic reads a private clone of the volume, so that the volume can be written, moved and deleted meanwhile. The clone
// is mounted read-only in a folder of the dataset below the agent's root. The folder also has a note about the clone,
// which is written before the clone is made. After a crash, Clear unmounts and destroys each clone that has such a
// note.
//
// Only Creator has state: which backups run, in memory, and on disk the folders and the names of unwanted backups. A
// lock for each dataset protects its folder, and a channel limits how many backups run. A read-write lock lets backups
// run at the same time, but none while unwanted backups are removed. The order of the steps is in creator.go, the
// folders are in scratch.go, and the removal of unwanted backups is in unwanted.go.
package backup
