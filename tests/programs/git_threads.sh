# git with threads for searching and packing: the same objects, the same answers.
set -e
export HOME="$PWD" GIT_CONFIG_NOSYSTEM=1
export GIT_AUTHOR_DATE='@0 +0000' GIT_COMMITTER_DATE='@0 +0000'
git init -q -b main repo
cd repo
git config user.name n
git config user.email e
git config pack.threads 4
git config grep.threads 4
git config gc.auto 0
i=1
while [ $i -le 200 ]; do
	seq $i $((i + 100)) > file$i
	i=$((i + 1))
done
git add .
git commit -q -m first
git grep -c 150
git repack -q -a -d -f
git count-objects -v | grep -E '^(in-pack|packs|garbage)'
git log --format='%H %s'
git fsck --no-progress
